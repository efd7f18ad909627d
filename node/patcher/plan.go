package patcher

import (
	"fmt"
	"slices"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/internal/ctl"
)

// link is a patch in the chain from the owner's program to the one that runs.
type link struct {
	File   string     `json:"file"`
	Base   patch.Hash `json:"base"`
	Result patch.Hash `json:"result"`
}

func (l link) same(other link) bool { return l.Base == other.Base && l.Result == other.Result }

// found is a file in patch/. With err it is none that could be applied, whatever the program is.
type found struct {
	link
	err error
}

// failure is a program that did not run.
type failure struct {
	Result patch.Hash `json:"result"`
	Reason string     `json:"reason"`
}

// record is what is known of the program's file besides the file. It is written before the file is
// replaced: whatever the program is then, it tells our work from the owner's.
type record struct {
	Base    patch.Hash   `json:"base"`    // the owner's program, without patches
	Results []patch.Hash `json:"results"` // what else the file may be by our doing
	Chain   []link       `json:"chain"`   // what is applied, or about to be
	Failed  []failure    `json:"failed"`  // results that are not tried again while their patches are there
	Proven  bool         `json:"proven"`  // the result of the chain has run
}

// ours says whether the program is one that patches made, or their base. If not, the owner has put
// another one there, and that is the base now.
func (r record) ours(program patch.Hash) bool {
	return program == r.Base || slices.Contains(r.Results, program)
}

func (r record) failure(result patch.Hash) (string, bool) {
	i := slices.IndexFunc(r.Failed, func(f failure) bool { return f.Result == result })
	if i < 0 {
		return "", false
	}
	return r.Failed[i].Reason, true
}

// plan is what the program is to be, and what there is to say about each patch once it is.
type plan struct {
	base    patch.Hash
	chain   []link // from base to target
	target  patch.Hash
	from    int  // the program is what chain[:from] makes; -1: it is another one, and base is needed
	held    bool // target is what the program is, since what it should be cannot be made
	failed  []failure
	entries []ctl.Patch // by name
}

// tip gives the program that a chain makes of base.
func tip(base patch.Hash, chain []link) patch.Hash {
	if len(chain) == 0 {
		return base
	}
	return chain[len(chain)-1].Result
}

// position gives how many links of chain make program of base, or -1.
func position(base patch.Hash, chain []link, program patch.Hash) int {
	for i := len(chain); i >= 0; i-- {
		if tip(base, chain[:i]) == program {
			return i
		}
	}
	return -1
}

// decide says what the program is to be. The rules: a patch that is applied stays so while its file is
// there. When the last ones are deleted they are rolled back; one in the middle is not, since what
// rests on it is still wanted. Then those that fit the end of the chain are applied, in the order of
// their names. haveBase says whether the owner's program was kept. files are in the order of names.
func decide(program patch.Hash, rec record, haveBase bool, files []found) plan {
	d := decision{program: program, rec: rec, files: files, plan: plan{base: program}, said: map[string]ctl.Patch{}}
	var applied []link
	if rec.ours(program) {
		d.base, applied = rec.Base, rec.Chain
	} else {
		d.rec, haveBase = record{}, false
	}
	d.keep(applied, haveBase)
	d.before()
	d.extend()
	d.target = tip(d.base, d.chain)
	d.from = position(d.base, d.chain, program)
	for _, e := range d.said {
		d.entries = append(d.entries, e)
	}
	slices.SortFunc(d.entries, func(a, b ctl.Patch) int {
		if a.File < b.File {
			return -1
		}
		return 1
	})
	return d.plan
}

// decision is a plan in the making.
type decision struct {
	plan
	program patch.Hash
	rec     record
	files   []found
	inBase  []link               // patches that the base has in it already
	said    map[string]ctl.Patch // by file
}

func (d *decision) say(file, state, format string, args ...any) {
	d.said[file] = ctl.Patch{File: file, State: state, Reason: fmt.Sprintf(format, args...)}
}

// present gives the file that is the patch l: that of its name or, if it was renamed, the first one.
func (d *decision) present(l link) (string, bool) {
	if slices.ContainsFunc(d.files, func(f found) bool { return f.err == nil && f.link == l }) {
		return l.File, true
	}
	i := slices.IndexFunc(d.files, func(f found) bool { return f.err == nil && f.same(l) })
	if i < 0 {
		return "", false
	}
	return d.files[i].File, true
}

// keep begins the chain with what stays applied of what was.
func (d *decision) keep(applied []link, haveBase bool) {
	kept, gap := 0, ""
	chain := slices.Clone(applied)
	for i, l := range applied {
		if _, bad := d.rec.failure(l.Result); bad {
			break
		}
		if file, ok := d.present(l); ok {
			chain[i].File, kept = file, i+1
		}
	}
	d.chain = chain[:kept]
	d.from = position(d.base, d.chain, d.program)
	for _, l := range d.chain[max(d.from, 0):] { // what would have to be applied
		if _, ok := d.present(l); !ok {
			gap = l.File
			break
		}
	}
	d.target = tip(d.base, d.chain)
	why, bad := d.rec.failure(d.target)
	d.held = d.target != d.program && (gap != "" || d.from < 0 && !haveBase || bad)
	if d.held && bad {
		d.failed = append(d.failed, failure{d.target, why})
	}
	if d.held {
		d.chain = chain[:max(position(d.base, chain, d.program), 0)]
	}
	for i, l := range d.chain {
		if _, ok := d.present(l); ok {
			d.say(l.File, ctl.PatchApplied, "")
			continue
		}
		switch rest := d.resting(d.chain[i+1:]); {
		case rest != "":
			d.say(l.File, ctl.PatchRefused, "its file is gone or another one, but %s rests on it: the program stays as it is. Put it back, or delete %s too", rest, rest)
		case gap != "":
			d.say(l.File, ctl.PatchRefused, "its file is gone or another one, but rolling it back needs %s, whose file is gone too", gap)
		case bad:
			d.say(l.File, ctl.PatchRefused, "its file is gone or another one, but the program before it was tried, and %s", why)
		default:
			d.say(l.File, ctl.PatchRefused, "its file is gone or another one, but the program before it was not kept: it cannot be rolled back")
		}
	}
}

// resting gives the first of chain whose file is there.
func (d *decision) resting(chain []link) string {
	for _, l := range chain {
		if file, ok := d.present(l); ok {
			return file
		}
	}
	return ""
}

// before finds the patches that led to the base, of which no record was kept: of a directory that was
// copied, say.
func (d *decision) before() {
	for at := d.base; len(d.inBase) <= len(d.files); {
		i := slices.IndexFunc(d.files, func(f found) bool {
			return f.err == nil && f.Result == at && position(d.base, d.chain, f.Base) < 0 && !slices.ContainsFunc(d.inBase, f.same) && !slices.ContainsFunc(d.chain, f.same)
		})
		if i < 0 {
			return
		}
		d.inBase = append(d.inBase, d.files[i].link)
		d.say(d.files[i].File, ctl.PatchApplied, "the program before it was not kept: it cannot be rolled back")
		at = d.files[i].Base
	}
}

// extend goes through the other files in the order of their names.
func (d *decision) extend() {
	for _, f := range d.files {
		if _, done := d.said[f.File]; done {
			continue
		}
		if reason, bad := d.rec.failure(f.Result); bad && f.err == nil {
			d.failed = append(d.failed, failure{f.Result, reason})
			d.say(f.File, ctl.PatchRolledBack, "%s. To try again, delete it and drop it once more", reason)
			continue
		}
		if why := d.unfit(f); why != "" {
			d.say(f.File, ctl.PatchRefused, "%s", why)
			continue
		}
		d.chain = append(d.chain, f.link)
		d.say(f.File, ctl.PatchApplied, "")
	}
}

// unfit says why a file cannot be applied next; "" if it can.
func (d *decision) unfit(f found) string {
	if f.err != nil {
		return reasonOf(f.err)
	}
	for _, l := range append(slices.Clone(d.inBase), d.chain...) {
		if f.same(l) {
			return "it is the same patch as " + l.File
		}
	}
	if d.held {
		return "the patches before it cannot be changed"
	}
	end := tip(d.base, d.chain)
	if f.Base != end {
		after := ""
		if n := len(d.chain); n > 0 {
			after = " after " + d.chain[n-1].File
		}
		return fmt.Sprintf("it is for the program %s, and the program%s is %s", f.Base.Short(), after, end.Short())
	}
	if position(d.base, d.chain, f.Result) >= 0 {
		return "it leads back to a program from which the patches before it lead here: delete those"
	}
	if n := len(d.chain); n > 0 && f.File < d.chain[n-1].File {
		return fmt.Sprintf("it rests on %s, and its name has to come after that one's", d.chain[n-1].File)
	}
	return ""
}

// reasonOf gives the cause of an error, which the file's name is put before.
func reasonOf(err error) string {
	if e, ok := err.(*cellproto.Error); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}
