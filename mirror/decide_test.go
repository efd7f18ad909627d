package mirror

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/cellproto/signed"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// The transcripts are a cell's story: what happens, a line each, after the time since its start; every
// "decide" is answered below the rule.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/decide/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := retell(t, string(data))
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

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// retell runs a transcript and gives it with the answers that it has today.
func retell(t *testing.T, text string) string {
	var out, answers strings.Builder
	s := Situation{Placement: celltoml.PlacementPublic}
	answering := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			answering = true
			continue
		case line == "":
			if answering || answers.Len() > 0 {
				out.WriteString("----\n" + answers.String())
				answers.Reset()
			}
			answering = false
			out.WriteString("\n")
			continue
		case answering:
			continue
		}
		out.WriteString(line + "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		now := epoch.Add(duration(t, words[0]))
		if words[1] == "decide" {
			answers.WriteString(describe(Decide(now, s)) + "\n")
			continue
		}
		happen(t, &s, now, words[1], words[2:])
	}
	if answers.Len() > 0 {
		out.WriteString("----\n" + answers.String())
	}
	return out.String()
}

func describe(d Decision) string {
	text := d.Action.String()
	if d.Donor != "" {
		text += " " + string(d.Donor)
	}
	text += ": " + d.Why
	if !d.Again.IsZero() {
		text += fmt.Sprintf(" (again at %v)", d.Again.Sub(epoch))
	}
	return text
}

// happen changes the situation by one line of a transcript.
func happen(t *testing.T, s *Situation, now time.Time, verb string, args []string) {
	values := map[string]string{}
	for _, arg := range args {
		key, value, _ := strings.Cut(arg, "=")
		values[key] = value
	}
	has := func(key string) bool { _, ok := values[key]; return ok }
	switch verb {
	case "objective":
		s.Objective = Objective{Clone: has("clone")}
		if has("p99") {
			s.Objective.MaxP99 = duration(t, values["p99"])
		}
		if has("mbps") {
			s.Objective.MinBandwidth = number(t, values["mbps"])
		}
	case "here":
		s.HereAllowed = !has("refused")
	case "placement":
		s.Placement, s.Friend = celltoml.Placement(args[0]), has("friend")
	case "alone":
		s.Alone = signed.Alone(args[0])
	case "race":
		var o Outcome
		if args[0] != "nobody" {
			o.Score = duration(t, args[0])
		}
		if has("mbps") {
			o.Bandwidth = number(t, values["mbps"])
		}
		s.Races = append(s.Races, o)
	case "donors":
		s.HaveDonors = true
	case "asked":
		s.AskedDonors, s.Donors, s.Awaited = now, nil, int(number(t, args[0]))
	case "donor":
		d := Donor{Peer: cellproto.PeerID(args[0]), RTT: duration(t, values["rtt"]), Yes: has("yes")}
		if has("when") {
			d.When = epoch.Add(duration(t, values["when"]))
		}
		s.Donors, s.Awaited = append(s.Donors, d), s.Awaited-1
	case "copy":
		s.Copy = map[string]Copy{"none": NoCopy, "making": Making, "here": Here, "there": There}[args[0]]
		s.Replaced = has("replaced")
	case "follows":
		s.Follows = true
	case "called":
		s.LastCall = now
	case "failed":
		s.Failures, s.Failed, s.Copy = s.Failures+1, now, NoCopy
	default:
		t.Fatalf("a transcript says %q", verb)
	}
}

func duration(t *testing.T, text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func number(t *testing.T, text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
