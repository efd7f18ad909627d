package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/celldnet/celld/internal/ctl"
)

// What is typed is what the nucleus is asked; what is not typed is not mentioned.
func TestGiveAsks(t *testing.T) {
	n := startFake(t)
	t.Setenv("CELL_HOME", n.dir)
	asked := ""
	n.routes[ctl.RouteGive] = func(w *ctl.Writer, r *http.Request, _ http.ResponseWriter) {
		asked = r.URL.Query().Get("change")
		if _, err := ctl.ParseGive(r.URL.Query()); err != nil {
			t.Error(err)
		}
		w.Result(ctl.Giving{On: true})
	}
	for line, want := range map[string]string{
		"give":                                `{"on":true}`,
		"give stop":                           `{"on":false}`,
		"give --cpu 12.5% --ram 3":            `{"on":true,"cpu_percent":12.5,"ram_percent":3}`,
		"give --disk 512KiB/s --max":          `{"on":true,"disk_bps":524288,"max":true}`,
		"give --max=false --busy 90%":         `{"on":true,"max":false,"busy_percent":90}`,
		"give --until never":                  `{"on":true,"until":"0001-01-01T00:00:00Z"}`,
		"give --schedule always --hosts 2":    `{"on":true,"schedule":"always","hosts":2}`,
		"give --allow a --allow b --deny c":   `{"on":true,"allow":["a","b"],"deny":["c"]}`,
		"give --allow all --deny none":        `{"on":true,"allow":[],"deny":[]}`,
		"give --credit-to self":               `{"on":true,"credit_to":""}`,
		"give --gpu --build-from-source=true": `{"on":true,"gpu":true,"build_from_source":true}`,
	} {
		asked = ""
		if must(t, run(t, "", strings.Fields(line)...)); asked != want {
			t.Errorf("%s asks %s, want %s", line, asked, want)
		}
	}
}

func TestParseUntil(t *testing.T) {
	zone := time.FixedZone("", 2*3600)
	now := time.Date(2026, 11, 2, 12, 0, 0, 0, zone)
	for text, want := range map[string]time.Time{
		"never":                {},
		"13:00":                time.Date(2026, 11, 2, 13, 0, 0, 0, zone),
		"12:00":                time.Date(2026, 11, 3, 12, 0, 0, 0, zone),
		"08:00":                time.Date(2026, 11, 3, 8, 0, 0, 0, zone),
		"8:00":                 time.Date(2026, 11, 3, 8, 0, 0, 0, zone),
		"2h":                   now.Add(2 * time.Hour),
		"2026-12-24":           time.Date(2026, 12, 24, 0, 0, 0, 0, zone),
		"2026-12-24T18:30":     time.Date(2026, 12, 24, 18, 30, 0, 0, zone),
		"2026-12-24T18:30:00Z": time.Date(2026, 12, 24, 18, 30, 0, 0, time.UTC),
	} {
		if got, err := parseUntil(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "25:00", "-2h", "0s", "soon", "2026-11-02", "2026-11-02T11:59"} {
		if got, err := parseUntil(text, now); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestParseShares(t *testing.T) {
	for text, want := range map[string]float64{"10%": 10, " 12.5 % ": 12.5, "100": 100, "0.1%": 0.1} {
		if got, err := parsePercent(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "%", "0", "-1%", "101%", "NaN", "ten"} {
		if got, err := parsePercent(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	for text, want := range map[string]int64{"5MB/s": 5e6, "1MiB/s": 1 << 20, "1.5 kB/s": 1500, "1000": 1000, "7B": 7, "1GB": 1e9} {
		if got, err := parseRate(text); err != nil || got != want {
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/s", "0", "-1MB/s", "5MB/m", "Inf", "NaN", "1e30", "fast"} {
		if got, err := parseRate(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestGiveShows(t *testing.T) {
	n := startFake(t)
	t.Setenv("CELL_HOME", n.dir)
	g := ctl.Giving{
		On: true, Why: "somebody is at this machine", CPU: 10, RAM: 10, Disk: 5e6, Hosts: 4, LimitBy: "cgroup v2", Busy: 70,
		Used: ctl.GivenUse{CPU: 3.25, RSS: 48e6, Disk: 1500}, Schedule: "always",
		Hosted:  []ctl.HostedRow{{Name: "calc\x1b[31m", Version: "1.0.0", ForWhom: "12D3KooWfar", State: "paused", CPU: 3.25, RSS: 48e6, CID: "bafyone", Publisher: "12D3KooWowner", Error: "no room"}},
		Sensors: []ctl.SensorRow{{Of: "input", By: "i8042 interrupts", Says: "none for 12s"}},
		Places:  3, Refused: []ctl.Refused{{Name: "big\x1b", Why: "300 MiB of memory are more than the 140 MiB that a cell gets here", Times: 2}},
	}
	n.routes[ctl.RouteGiveStatus] = func(w *ctl.Writer, _ *http.Request, _ http.ResponseWriter) { w.Result(g) }
	out := must(t, run(t, "", "give", "status"))
	for _, want := range []string{
		"on, paused", "somebody is at this machine", "10 % of the processors, 10 % of the memory, 5.0 MB/s of disk, 4 cells", "cgroup v2",
		"3.2 % of the processors, 48.0 MB of memory, 1.5 kB/s of disk", "none for 12s (i8042 interrupts)", "12D3KooWfar", "paused", "bafyone", "12D3KooWowner", "no room", "4 cells (there is memory for 3)",
		"300 MiB of memory are more than the 140 MiB that a cell gets here", "2 times",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("a stranger's name drives the terminal: %q", out)
	}
	var fields map[string]any
	if err := json.Unmarshal([]byte(must(t, run(t, "", "give", "status", "--json"))), &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"on", "why", "cpu_percent", "ram_percent", "disk_bps", "hosted"} { // promised
		if _, ok := fields[name]; !ok {
			t.Errorf("there is no %q", name)
		}
	}
}
