package celltest

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// evidence is what the programs have noted of themselves: who carried out what.
type evidence struct {
	version map[string]string   // of each instance of the program
	machine map[string]string   // that it ran on; also of each peer, and of each cell's directory
	ran     map[string][]string // the instances that carried a call out, by its key
}

// collect reads the notes of all programs that ran on a machine: the logs that their nuclei keep, and the
// files of those that are not confined.
func (e *evidence) collect(machine, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // it has just been removed
		}
		name := d.Name()
		if name != "cell.log" && name != "cell.log.1" && name != "nucleus.log" && !strings.HasSuffix(name, ".calls") {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if name == "nucleus.log" {
			e.machine[filepath.Dir(filepath.Dir(path))] = machine
			for _, m := range readyPeer.FindAllSubmatch(data, -1) {
				e.machine[string(m[1])] = machine
			}
			return nil
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			_, text, _ := strings.Cut(lines.Text(), "@") // before it is the time
			switch words := strings.Fields(text); {
			case len(words) != 3:
			case words[0] == "began":
				e.version[words[2]], e.machine[words[2]] = words[1], machine
			case words[0] == "ran":
				e.ran[words[1]] = append(e.ran[words[1]], words[2])
			}
		}
		return lines.Err()
	})
}

// readyPeer is how a nucleus says in its log who it is.
var readyPeer = regexp.MustCompile(`\tready\t\{.*"peer": "([0-9A-Za-z]+)"`)

func gather(machines []*machine) (*evidence, error) {
	e := &evidence{version: map[string]string{}, machine: map[string]string{}, ran: map[string][]string{}}
	for _, m := range machines {
		if err := e.collect(m.name, m.at.dir); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// cut is a power cut.
type cut struct {
	machine string
	at      time.Time
}

// verdict is what both ends say together. The first three are what must not be.
type verdict struct {
	failed []string // of those that may be repeated
	twice  []string // by one program, or though it must not be repeated, or for no reason
	wrong  []string

	calls    int
	repeated int // carried out once more, elsewhere, since the power of the first machine was cut meanwhile
	silent   int // the same, since the first did not answer for a while, nor a ping
	hedged   int // pure, carried out by several
	unnoted  int // answered, but what noted it was lost in a power cut
	mayRun   int // must not be repeated, and the error says that it may have run
	refused  int // must not be repeated, and the error says that it has not run
}

// judge counts. Who is asked by a name gets the version that the name stands for, and never an older one
// again.
func judge(calls []made, e *evidence, cuts []cut) *verdict {
	v := &verdict{calls: len(calls)}
	for _, m := range calls {
		v.count(&m, e, cuts)
	}
	v.backwards(calls)
	return v
}

func (v *verdict) count(m *made, e *evidence, cuts []cut) {
	what := fmt.Sprintf("%s %s at %s", m.fn, m.key, m.at.Format("15:04:05.000"))
	ran := e.ran[m.key]
	switch {
	case m.err == nil:
		if m.reply.Key != m.key || m.want != "" && m.reply.Version != m.want {
			v.wrong = append(v.wrong, fmt.Sprintf("%s for %q: answered %+v", what, m.want, m.reply))
		}
		if len(ran) == 0 {
			v.unnoted++
		}
	case m.repeatable():
		v.failed = append(v.failed, fmt.Sprintf("%s for %q, after %v: %v", what, m.want, m.took.Round(time.Millisecond), m.err))
	case mayHaveRun(m.err):
		v.mayRun++
	default:
		v.refused++
		if len(ran) > 0 {
			v.wrong = append(v.wrong, fmt.Sprintf("%s has run, but its error is %v", what, m.err))
		}
	}
	if len(ran) < 2 {
		return
	}
	switch {
	case m.fn == "look":
		v.hedged++
	case m.fn == "note" && lostMeanwhile(m, ran, e, cuts):
		v.repeated++
	case m.fn == "note" && m.took > leastSilence && !again(ran):
		v.silent++
	default:
		v.twice = append(v.twice, fmt.Sprintf("%s ran in %v", what, ran))
	}
}

// leastSilence is how long a provider is silent before the next one is asked.
const leastSilence = 60 * time.Millisecond

// again says that one program has carried a call out more than once.
func again(ran []string) bool {
	seen := map[string]bool{}
	for _, instance := range ran {
		if seen[instance] {
			return true
		}
		seen[instance] = true
	}
	return false
}

// lostMeanwhile says that a call was carried out by different programs, all but one of them on machines
// whose power was cut while the call was on its way: nobody can know then whether it had run.
func lostMeanwhile(m *made, ran []string, e *evidence, cuts []cut) bool {
	if again(ran) {
		return false
	}
	alive := 0
	for _, instance := range ran {
		lost := false
		for _, c := range cuts {
			lost = lost || c.machine == e.machine[instance] && m.at.Before(c.at) && m.end().After(c.at)
		}
		if !lost {
			alive++
		}
	}
	return alive <= 1
}

// backwards finds calls by the name that were answered by an older version than one before, which had ended
// when they began.
func (v *verdict) backwards(calls []made) {
	first := map[int]time.Time{} // when a caller had its first answer of version 2 by the name
	for _, m := range calls {
		if m.err == nil && m.want == "" && m.reply.Version == "2.0.0" {
			if at, ok := first[m.caller]; !ok || m.end().Before(at) {
				first[m.caller] = m.end()
			}
		}
	}
	for _, m := range calls {
		if at, ok := first[m.caller]; ok && m.err == nil && m.want == "" && m.reply.Version == "1.0.0" && m.at.After(at) {
			v.wrong = append(v.wrong, fmt.Sprintf("%s %s was answered by 1.0.0, after 2.0.0 was", m.fn, m.key))
		}
	}
}
