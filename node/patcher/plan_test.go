package patcher

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/patch"
	"github.com/celldnet/celld/internal/ctl"
)

// program names a program by a letter.
func named(letter byte) patch.Hash { return patch.Hash{letter} }

// chainOf reads "1:AB 2:BC": files and the programs that they lead from and to.
func chainOf(text string) []link {
	var out []link
	for _, word := range strings.Fields(text) {
		file, ends, _ := strings.Cut(word, ":")
		out = append(out, link{file, named(ends[0]), named(ends[1])})
	}
	return out
}

// filesOf reads the same; "3:!" is a file that is none.
func filesOf(text string) []found {
	var out []found
	for _, word := range strings.Fields(text) {
		if file, ok := strings.CutSuffix(word, ":!"); ok {
			out = append(out, found{link{File: file}, cellproto.Errorf("read", cellproto.BadInput, "garbage")})
			continue
		}
		out = append(out, found{chainOf(word)[0], nil})
	}
	return out
}

// entriesOf shows what is said: "1+ 2-", and "3~" of one that was rolled back.
func entriesOf(entries []ctl.Patch) string {
	var out []string
	for _, e := range entries {
		out = append(out, e.File+map[string]string{ctl.PatchApplied: "+", ctl.PatchRefused: "-", ctl.PatchRolledBack: "~"}[e.State])
	}
	return strings.Join(out, " ")
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name    string
		program byte
		base    byte   // 0: there is no record
		results string // programs that are ours besides
		chain   string
		failed  string // programs that did not run
		lost    bool   // the base was not kept
		files   string
		target  byte
		applied string
		entries string
		says    string // in one of the reasons
	}{
		{name: "nothing", program: 'A', target: 'A'},
		{name: "one fits", program: 'A', files: "1:AB", target: 'B', applied: "1", entries: "1+"},
		{name: "one does not", program: 'A', files: "1:BC", target: 'A', entries: "1-", says: "it is for the program 42000000, and the program is 41000000"},
		{name: "a chain", program: 'A', files: "1:AB 2:BC 3:CD", target: 'D', applied: "1 2 3", entries: "1+ 2+ 3+"},
		{name: "a chain in the wrong order", program: 'A', files: "1:BC 2:AB", target: 'B', applied: "2", entries: "1- 2+"},
		{name: "two for one base", program: 'A', files: "1:AB 2:AC", target: 'B', applied: "1", entries: "1+ 2-", says: "the program after 1 is"},
		{name: "garbage among them", program: 'A', files: "1:! 2:AB 3:!", target: 'B', applied: "2", entries: "1- 2+ 3-", says: "garbage"},
		{name: "one twice", program: 'A', files: "1:AB 2:AB", target: 'B', applied: "1", entries: "1+ 2-", says: "it is the same patch as 1"},
		{name: "applied", program: 'B', base: 'A', results: "B", chain: "1:AB", files: "1:AB", target: 'B', applied: "1", entries: "1+"},
		{name: "applied, and renamed", program: 'B', base: 'A', results: "B", chain: "1:AB", files: "7:AB", target: 'B', applied: "7", entries: "7+"},
		{name: "killed before the rename", program: 'A', base: 'A', results: "AB", chain: "1:AB", files: "1:AB", target: 'B', applied: "1", entries: "1+"},
		{name: "another one on top", program: 'B', base: 'A', results: "B", chain: "1:AB", files: "1:AB 2:BC", target: 'C', applied: "1 2", entries: "1+ 2+"},
		{name: "another one whose name comes before", program: 'B', base: 'A', results: "B", chain: "2:AB", files: "1:BC 2:AB", target: 'B', applied: "2", entries: "1- 2+", says: "its name has to come after"},
		{name: "another one for the base", program: 'B', base: 'A', results: "B", chain: "2:AB", files: "1:AC 2:AB", target: 'B', applied: "2", entries: "1- 2+"},
		{name: "the last one deleted", program: 'C', base: 'A', results: "BC", chain: "1:AB 2:BC", files: "1:AB", target: 'B', applied: "1", entries: "1+"},
		{name: "all deleted", program: 'C', base: 'A', results: "BC", chain: "1:AB 2:BC", target: 'A'},
		{name: "all replaced by one", program: 'C', base: 'A', results: "BC", chain: "1:AB 2:BC", files: "3:AD", target: 'D', applied: "3", entries: "3+"},
		{name: "the last one replaced", program: 'C', base: 'A', results: "BC", chain: "1:AB 2:BC", files: "1:AB 2:BD", target: 'D', applied: "1 2", entries: "1+ 2+"},
		{name: "the middle one deleted", program: 'D', base: 'A', results: "D", chain: "1:AB 2:BC 3:CD", files: "1:AB 3:CD", target: 'D', applied: "1 2 3", entries: "1+ 2- 3+", says: "its file is gone or another one, but 3 rests on it: the program stays as it is. Put it back, or delete 3 too"},
		{name: "the middle one deleted, and one on top", program: 'D', base: 'A', results: "D", chain: "1:AB 2:BC 3:CD", files: "1:AB 3:CD 4:DE", target: 'E', applied: "1 2 3 4", entries: "1+ 2- 3+ 4+"},
		{name: "the middle one and the last one deleted", program: 'D', base: 'A', results: "D", chain: "1:AB 2:BC 3:CD", files: "2:BC", target: 'D', applied: "1 2 3", entries: "1- 2+ 3-", says: "rolling it back needs 1"},
		{name: "the middle one put back", program: 'D', base: 'A', results: "D", chain: "1:AB 2:BC 3:CD", files: "1:AB 2:BC 3:CD", target: 'D', applied: "1 2 3", entries: "1+ 2+ 3+"},
		{name: "deleted, and the base is lost", program: 'B', base: 'A', results: "B", chain: "1:AB", lost: true, target: 'B', applied: "1", entries: "1-", says: "the program before it was not kept"},
		{name: "one more, and the base is lost", program: 'B', base: 'A', results: "B", chain: "1:AB", lost: true, files: "1:AB 2:BC", target: 'C', applied: "1 2", entries: "1+ 2+"},
		{name: "the owner has built anew", program: 'X', base: 'A', results: "B", chain: "1:AB", files: "1:AB", target: 'X', entries: "1-"},
		{name: "the owner has built what the patch is for", program: 'A', base: 'Z', results: "Y", chain: "1:ZY", files: "2:AB", target: 'B', applied: "2", entries: "2+"},
		{name: "copied without the record", program: 'C', files: "1:AB 2:BC", target: 'C', entries: "1+ 2+", says: "it cannot be rolled back"},
		{name: "copied without the record, and one on top", program: 'C', files: "1:AB 2:BC 3:CD", target: 'D', applied: "3", entries: "1+ 2+ 3+"},
		{name: "it did not run", program: 'A', base: 'A', results: "AB", failed: "B", files: "1:AB", target: 'A', entries: "1~", says: "it broke. To try again, delete it and drop it once more"},
		{name: "it did not run, and another one does", program: 'A', base: 'A', results: "AB", failed: "B", files: "1:AB 2:AC", target: 'C', applied: "2", entries: "1~ 2+"},
		{name: "the second did not run", program: 'C', base: 'A', results: "BC", chain: "1:AB 2:BC", failed: "C", files: "1:AB 2:BC", target: 'B', applied: "1", entries: "1+ 2~"},
		{name: "it did not run, and was deleted", program: 'A', base: 'A', results: "AB", failed: "B", target: 'A'},
		{name: "the base does not run any more", program: 'B', base: 'A', results: "B", chain: "1:AB", failed: "A", target: 'B', applied: "1", entries: "1-", says: "the program before it was tried, and it broke"},
		{name: "back and forth", program: 'B', base: 'A', results: "B", chain: "1:AB", files: "1:AB 2:BA", target: 'B', applied: "1", entries: "1+ 2-", says: "it leads back"},
		{name: "around", program: 'B', files: "1:AB 2:BA", target: 'A', applied: "2", entries: "1+ 2+"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var rec record
			if c.base != 0 {
				rec = record{Base: named(c.base), Chain: chainOf(c.chain)}
				for i := range len(c.results) {
					rec.Results = append(rec.Results, named(c.results[i]))
				}
				for i := range len(c.failed) {
					rec.Failed = append(rec.Failed, failure{named(c.failed[i]), "it broke"})
				}
			}
			pl := decide(named(c.program), rec, c.base != 0 && !c.lost, filesOf(c.files))
			var applied []string
			for _, l := range pl.chain {
				applied = append(applied, l.File)
			}
			if got := strings.Join(applied, " "); pl.target != named(c.target) || got != c.applied || entriesOf(pl.entries) != c.entries {
				t.Errorf("target %c, applied %q, said %q: %v", pl.target[0], got, entriesOf(pl.entries), pl.entries)
			}
			says := func(e ctl.Patch) bool { return strings.Contains(e.Reason, c.says) }
			if c.says != "" && !slices.ContainsFunc(pl.entries, says) {
				t.Errorf("nothing says %q: %v", c.says, pl.entries)
			}
			if pl.target != named(c.program) && pl.from < 0 && (c.base == 0 || c.lost) {
				t.Error("it takes a base that is not there")
			}
		})
	}
}

// TestDecideSettles: whatever there is, a plan that was carried out leaves nothing to do, whether the
// nucleus was killed before or after the program was replaced; and it only applies what leads from one
// to the next.
func TestDecideSettles(t *testing.T) {
	letter := rapid.SampledFrom([]byte("ABCDE"))
	anyLink := func(t *rapid.T, file string) link {
		l := link{file, named(letter.Draw(t, "base")), named(letter.Draw(t, "result"))}
		if l.Base[0] >= l.Result[0] { // never the same; what leads back is in the table above
			l.Result = named(l.Base[0] + 1)
		}
		return l
	}
	rapid.Check(t, func(t *rapid.T) {
		program := named(letter.Draw(t, "program"))
		var files []found
		for i := range rapid.IntRange(0, 5).Draw(t, "files") {
			files = append(files, found{link: anyLink(t, fmt.Sprint(i))})
			if rapid.IntRange(0, 4).Draw(t, "bad") == 0 {
				files[i].err = cellproto.Errorf("", cellproto.BadInput, "garbage")
			}
		}
		rec := record{Base: named(letter.Draw(t, "recorded base"))}
		at := rec.Base
		for i := range rapid.IntRange(0, 4).Draw(t, "chain") {
			l := anyLink(t, fmt.Sprint(i))
			if l.Base = at; l.Result[0] <= at[0] {
				l.Result = named(at[0] + 1)
			}
			at = l.Result
			rec.Chain, rec.Results = append(rec.Chain, l), append(rec.Results, at)
		}
		if rapid.Bool().Draw(t, "failed") {
			rec.Failed = append(rec.Failed, failure{named(letter.Draw(t, "failed program")), "it broke"})
		}
		haveBase := rapid.Bool().Draw(t, "have base")
		pl := decide(program, rec, haveBase, files)
		end := pl.base
		for _, l := range pl.chain {
			if l.Base != end {
				t.Fatalf("the chain %v does not hold together", pl.chain)
			}
			end = l.Result
		}
		if end != pl.target {
			t.Fatalf("the chain %v does not lead to %v", pl.chain, pl.target)
		}
		if pl.target != program && pl.from < 0 && !(haveBase && rec.ours(program)) {
			t.Fatal("it takes a base that is not there")
		}
		if pl.held {
			if pl.target != program {
				t.Fatal("held, and yet there is something to do")
			}
			return // the record stays as it is
		}
		next := record{Base: pl.base, Results: []patch.Hash{program, pl.target}, Chain: pl.chain, Failed: pl.failed}
		kept := haveBase && rec.ours(program) || pl.from == 0
		after := decide(pl.target, next, kept, files)
		if after.target != pl.target || entriesOf(after.entries) != entriesOf(pl.entries) {
			t.Fatalf("not settled: %v and then %v", pl, after)
		}
		if killed := decide(program, next, kept, files); killed.target != pl.target {
			t.Fatalf("after a kill before the rename: %v, not %v", killed, pl)
		}
	})
}
