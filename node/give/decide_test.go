package give

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// epoch is the 0 of all transcripts: a Monday.
var epoch = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

// TestTranscripts replays testdata/*.txt: lines of "time verb key=value ...", then "----", then what is decided.
// "look" changes what the sensors see and decides; "set" changes the settings.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := replay(t, string(data))
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(data) {
				t.Errorf("%s differs (run with -update to accept)\n--- got\n%s\n--- want\n%s", f, got, data)
			}
		})
	}
}

func replay(t *testing.T, in string) string {
	w := &world{t: t, set: Defaults(), snap: quietServer()}
	w.set.On = true
	var out, said strings.Builder
	skipping := false
	for line := range strings.Lines(in) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			fmt.Fprintf(&out, "----\n%s", said.String())
			said.Reset()
			skipping = true
		case line == "":
			skipping = false
			out.WriteString("\n")
		case skipping:
		default:
			out.WriteString(line + "\n")
			if !strings.HasPrefix(line, "#") {
				said.WriteString(w.do(line))
			}
		}
	}
	return out.String()
}

// quietServer is a machine that nobody can sit at, and that does nothing.
func quietServer() Snapshot {
	return Snapshot{
		Input: Input{State: Absent}, LidClosed: Absent, OnBattery: Absent, Battery: -1, Metered: Absent,
		Load: Load{Known: true, Cores: 4, Total: 16e9, Free: 12e9},
	}
}

type world struct {
	t    *testing.T
	set  Settings
	st   State
	snap Snapshot
}

// do carries out one line and gives what was decided.
func (w *world) do(line string) string {
	words := strings.Fields(line)
	after, err := time.ParseDuration(words[0])
	if err != nil || len(words) < 2 {
		w.t.Fatalf("bad line %q: %v", line, err)
	}
	now := epoch.Add(after)
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		if err := w.change(now, key, value); err != nil {
			w.t.Fatalf("bad line %q: %v", line, err)
		}
	}
	if words[1] == "set" {
		return ""
	}
	d := Decide(now, w.set, w.st, w.snap)
	w.st = d.Next
	text := fmt.Sprintf("%v pause: %s", after, d.Why)
	if d.Run {
		text = fmt.Sprintf("%v run: cpu %.4g%%, memory %d MB, disk %d kB/s", after, d.Caps.CPU, d.Caps.Memory/1e6, d.Caps.Disk/1e3)
	}
	if d.Caps.Firm {
		text += ", whoever else is busy"
	}
	if d.Over {
		text += "; over"
	}
	again := "never"
	if in := d.Again.Sub(now); in < forever {
		again = "in " + in.String()
	}
	text += "; look again " + again
	if d.Glance > 0 {
		text += ", glance every " + d.Glance.String()
	}
	return text + "\n"
}

func (w *world) change(now time.Time, key, value string) (err error) {
	number, nerr := strconv.ParseFloat(value, 64)
	switch key {
	case "input": // for how long there was none
		d, err := time.ParseDuration(value)
		if err != nil {
			w.snap.Input = Input{State: Reading(value)}
			break
		}
		w.snap.Input = Input{State: Yes, Last: now.Add(-d)}
	case "lid":
		w.snap.LidClosed = Reading(value)
	case "battery":
		w.snap.OnBattery = Reading(value)
	case "charge":
		w.snap.Battery, err = number, nerr
	case "metered":
		w.snap.Metered = Reading(value)
	case "others":
		w.snap.Load.Others, err = number, nerr
	case "free":
		w.snap.Load.Free, err = int64(number*1e6), nerr
	case "memory":
		w.snap.Load.Ours, err = int64(number*1e6), nerr
	case "busy":
		w.snap.Load.DiskBusy, err = number, nerr
	case "disk":
		w.snap.Load.DiskBPS, err = int64(number*1e6), nerr
	case "ours":
		w.snap.Load.DiskOurs, err = int64(number*1e6), nerr
	case "load":
		w.snap.Load.Known = value == "known"
	case "ram":
		w.set.RAM, err = number, nerr
	case "cpu":
		w.set.CPU, err = number, nerr
	case "mark":
		w.set.Busy, err = number, nerr
	case "on":
		w.set.On = value == "true"
	case "max":
		w.set.Max = value == "true"
	case "until":
		var d time.Duration
		d, err = time.ParseDuration(value)
		w.set.Until = epoch.Add(d)
	case "schedule":
		w.set.Schedule, err = ParseSchedule(strings.ReplaceAll(value, "_", " "))
	default:
		err = fmt.Errorf("there is no %q", key)
	}
	return err
}

func onSettings() Settings {
	s := Defaults()
	s.On = true
	return s
}
