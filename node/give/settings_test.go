package give

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
)

const (
	somePeer = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf"
	someCell = "bafyreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
)

func TestSettingsSurvive(t *testing.T) {
	dir := t.TempDir()
	if got, err := LoadSettings(dir); err != nil || !reflect.DeepEqual(got, Defaults()) {
		t.Fatalf("without a file: %+v, %v", got, err)
	}
	want := Defaults()
	want.On, want.CPU, want.Until = true, 12.5, time.Date(2027, 1, 1, 8, 0, 0, 0, time.UTC)
	want.Schedule, _ = ParseSchedule("fri 22:00-07:00")
	want.Policy = Policy{Allow: []string{somePeer}, Deny: []string{someCell}, Hosts: 2, CreditTo: somePeer}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	if got, err := LoadSettings(dir); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
	info, err := os.Stat(filepath.Join(dir, SettingsFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// What is not understood gives nothing.
func TestParseSettingsRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":        ``,
		"unknown key":    `{"on": true, "cpu": 10}`,
		"too much":       `{"cpu_percent": 101}`,
		"nothing of it":  `{"ram_percent": 0}`,
		"not a number":   `{"cpu_percent": "10%"}`,
		"no disk":        `{"disk_bps": 0}`,
		"no hosts":       `{"policy": {"hosts": 0}}`,
		"many hosts":     `{"policy": {"hosts": 65}}`,
		"publisher":      `{"policy": {"hosts": 1, "allow": ["me"]}}`,
		"nobody":         `{"policy": {"hosts": 1, "allow": [""]}}`,
		"cell":           `{"policy": {"hosts": 1, "deny": ["QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"]}}`,
		"schedule":       `{"schedule": "mon-fri 25:00-26:00"}`,
		"something else": `{"on": true} {"on": false}`,
		"large":          `{"on": true` + strings.Repeat(" ", maxSettings) + `}`,
	} {
		if s, err := ParseSettings([]byte(text)); err == nil || s.On {
			t.Errorf("%s is taken: %+v, %v", name, s, err)
		} else if k := cellproto.KindOf(err); k != cellproto.BadInput && k != cellproto.TooLarge {
			t.Errorf("%s: kind %v", name, k)
		}
	}
}

func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"on":true,"cpu_percent":10,"schedule":"mon 1:00-2:00","policy":{"hosts":3,"deny":["` + someCell + `"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSettings(data)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := s.save(dir); err != nil {
			t.Fatal(err)
		}
		if again, err := LoadSettings(dir); err != nil || again.Schedule.String() != s.Schedule.String() || again.CPU != s.CPU {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}

func FuzzPlacement(f *testing.F) {
	f.Add([]byte(`{"home":"/home/a/cell/home","groups":{"":"/sys/fs/cgroup/give"},"cpu":0.5,"memory":1000,"disk_bps":5,"for":"` + somePeer + `"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePlacement(data)
		if err != nil {
			return
		}
		dir := t.TempDir()
		if err := p.Write(dir); err != nil {
			t.Fatal(err)
		}
		if again, err := ReadPlacement(dir); err != nil || again.Home != p.Home || again.CPU != p.CPU || len(again.Groups) != len(p.Groups) {
			t.Errorf("%+v became %+v, %v", p, again, err)
		}
	})
}

func TestParsePlacementRefuses(t *testing.T) {
	for _, text := range []string{
		``, `{}`, `{"home":"/h","cpu":0,"memory":1}`, `{"home":"h","cpu":1,"memory":1}`, `{"home":"/h","cpu":1,"memory":0}`,
		`{"home":"/h","cpu":1,"memory":1,"disk_bps":-1}`, `{"home":"/h","cpu":1,"memory":1,"groups":{"cpu":"../x"}}`,
		`{"home":"/h","cpu":1,"memory":1,"groups":{"cpu":"/sys/../etc"}}`, `{"home":"/h","cpu":1,"memory":1,"for":"me"}`,
		`{"home":"/h","cpu":1,"memory":1,"more":1}`, `{"home":"/h","cpu":1,"memory":1} 1`,
		`{"home":"/h","cpu":1,"memory":1` + strings.Repeat(" ", maxPlacement) + `}`,
	} {
		if p, err := ParsePlacement([]byte(text)); err == nil {
			t.Errorf("%.60q is taken: %+v", text, p)
		}
	}
	if p, err := ReadPlacement(t.TempDir()); p != nil || err != nil {
		t.Errorf("a cell that is not hosted: %v, %v", p, err)
	}
}

func TestSchedule(t *testing.T) {
	for text, want := range map[string]string{
		"":                           "always",
		"Always":                     "always",
		"22:00-07:00":                "mon,tue,wed,thu,fri,sat,sun 22:00-07:00",
		"mon-wed 1:00-2:00":          "mon,tue,wed 01:00-02:00",
		"sat-mon 00:00-24:00":        "mon,sat,sun 00:00-24:00",
		"sat,sun":                    "sat,sun 00:00-24:00",
		"mon,wed 8:00-9:30, tue":     "mon,wed 08:00-09:30, tue 00:00-24:00",
		"mon-fri 22:00-07:00, sat":   "mon,tue,wed,thu,fri 22:00-07:00, sat 00:00-24:00",
		"8:00-9:00, mon 10:00-11:00": "mon,tue,wed,thu,fri,sat,sun 08:00-09:00, mon 10:00-11:00",
	} {
		s, err := ParseSchedule(text)
		if err != nil || s.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, s, err, want)
		}
		again, err := ParseSchedule(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("%q is read back as %q, %v", s, again, err)
		}
	}
	for _, text := range []string{
		"nomday", "mon-xyz 1:00-2:00", "mon 1:00", "mon 1:00-1:00", "mon 24:00-1:00", "1:60-2:00", "1-2", "mon tue 1:00-2:00",
		"mon 1:00-2:00 tue", ",", "mon,,tue", "+1:00-2:00", "mon " + strings.Repeat("x", maxSchedule), strings.Repeat("1:00-2:00,", maxSpans) + "1:00-2:00",
	} {
		if s, err := ParseSchedule(text); err == nil {
			t.Errorf("%.40q is taken as %q", text, s)
		}
	}
}

// At agrees with a look at every minute of a fortnight, also where summer time ends.
func TestScheduleChanges(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip("no time zones here")
	}
	rapid.Check(t, func(t *rapid.T) {
		var s Schedule
		for range rapid.IntRange(1, 3).Draw(t, "spans") {
			var sp span
			for d := range sp.days {
				sp.days[d] = rapid.Bool().Draw(t, "day")
			}
			sp.from = rapid.IntRange(0, dayMinutes-1).Draw(t, "from")
			sp.to = rapid.IntRange(0, dayMinutes).Filter(func(m int) bool { return m != sp.from }).Draw(t, "to")
			s.spans = append(s.spans, sp)
		}
		now := time.Date(2026, 10, 20, 0, 0, 0, 0, berlin).Add(time.Duration(rapid.IntRange(0, 7*24*3600).Draw(t, "now")) * time.Second)
		in, change := s.At(now)
		end := change
		if change.IsZero() {
			end = now.Add(8 * 24 * time.Hour)
		} else if after, _ := s.At(change); after == in {
			t.Errorf("%q: at %v, to change at %v: it does not", s, now, change)
		}
		for at := now; at.Before(end); at = at.Add(time.Minute) {
			if s.contains(at) != in {
				t.Fatalf("%q: at %v it is %v until %v, but not at %v", s, now, in, change, at)
			}
		}
	})
}

// Where summer time begins at midnight there is no midnight: the day is that day nonetheless.
func TestScheduleWithoutMidnight(t *testing.T) {
	chile, err := time.LoadLocation("America/Santiago")
	if err != nil {
		t.Skip("no time zones here")
	}
	s, err := ParseSchedule("sun 10:00-12:00")
	if err != nil {
		t.Fatal(err)
	}
	for day := 5; day <= 7; day++ { // Sunday, 6 September 2026, begins at 1:00
		now := time.Date(2026, 9, day, 11, 0, 0, 0, chile)
		if in, _ := s.At(now); in != (day == 6) {
			t.Errorf("%v is in %q: %v", now, s, in)
		}
	}
	now := time.Date(2026, 9, 5, 11, 0, 0, 0, chile)
	if _, change := s.At(now); !change.Equal(time.Date(2026, 9, 6, 10, 0, 0, 0, chile)) {
		t.Errorf("at %v %q changes at %v", now, s, change)
	}
}
