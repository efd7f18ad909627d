package main

import (
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/node/sandbox"
)

// What CommandLine writes parse reads back, so that a program started through cellbox is confined as
// its owner said.
func TestCommandLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zero := sandbox.Config{Dir: "/cells/a", Program: rapid.StringMatching(`[a-z/-][a-z/=-]{0,8}`).Draw(t, "program")}
		c := zero
		full := rapid.Bool()
		if full.Draw(t, "limits") {
			c.Memory = rapid.Int64Range(4<<20, 1<<40).Draw(t, "memory")
			c.CPU = rapid.Float64Range(0.01, float64(runtime.NumCPU())).Draw(t, "cpu")
			c.Threads, c.Files = rapid.IntRange(1, 4096).Draw(t, "threads"), rapid.IntRange(16, 65536).Draw(t, "files")
			c.Nice = rapid.IntRange(-1, 19).Draw(t, "nice")
			c.ReadRate = rapid.Int64Range(0, 1<<40).Draw(t, "read rate")
			c.LogRate = rapid.Int64Range(1, 1<<40).Draw(t, "log rate")
		}
		if full.Draw(t, "times") {
			c.Grace = time.Duration(rapid.Int64Range(1, int64(time.Minute)).Draw(t, "grace"))
			c.Every = time.Duration(rapid.Int64Range(int64(100*time.Millisecond), int64(time.Minute)).Draw(t, "every"))
			c.LogStdout, c.Cgroup = full.Draw(t, "stdout"), rapid.SampledFrom([]string{"", "none", "/sys/x"}).Draw(t, "cgroup")
		}
		if c.Cgroup == "" && full.Draw(t, "pool") {
			c.Pool = map[string]string{"cpu": "/sys/a=b", "": "/sys/c"}
		}
		if full.Draw(t, "build") {
			c.Build = &sandbox.Build{Output: []string{"bin/a b"}}
			if full.Draw(t, "build limits") {
				c.Build.Disk, c.Build.Files = rapid.Int64Range(1<<20, 1<<40).Draw(t, "disk"), rapid.IntRange(16, 1e6).Draw(t, "inodes")
				c.Build.Timeout = time.Duration(rapid.Int64Range(1, int64(time.Hour)).Draw(t, "timeout"))
			}
		}
		c.Tier = rapid.SampledFrom([]sandbox.Tier{sandbox.Auto, sandbox.T1, sandbox.T2, sandbox.T3}).Draw(t, "tier")
		if c.Build != nil {
			c.Tier = sandbox.T1
		}
		c.System = rapid.SampledFrom([]sandbox.System{sandbox.SystemAuto, sandbox.SystemNone, sandbox.SystemAll}).Draw(t, "system")
		text := rapid.SliceOfN(rapid.StringMatching(`[a-z =-]{0,6}`), 0, 4)
		c.Args = text.Draw(t, "args")
		for _, s := range text.Draw(t, "env") {
			c.Env = append(c.Env, "K="+s)
		}
		for _, s := range text.Draw(t, "read") {
			c.Read = append(c.Read, "/r"+s)
		}
		keep := rapid.SliceOfNDistinct(rapid.IntRange(3, 64), 0, 4, rapid.ID).Draw(t, "keep")
		o, err := parse(c.CommandLine(keep, "--report", "9", "--owner-fd", "10"), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Args) == 0 {
			c.Args, o.config.Args = nil, nil
		}
		if !reflect.DeepEqual(o.config, c) {
			t.Errorf("%+v became %+v", c, o.config)
		}
		if slices.Sort(keep); !slices.Equal(o.keep, keep) || o.report != "9" || o.owner != 10 {
			t.Errorf("%v became %v; report %q, owner %d", keep, o.keep, o.report, o.owner)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	for _, line := range []string{
		"", "--dir /x", "-- prog", "--dir / -- prog", "--dir /x --memory 1 -- prog", "--dir /x --memory lots -- prog",
		"--dir /x --cpu 0% -- prog", "--dir /x --pool /sys/x -- prog", "--dir /x --pool cpu=sys -- prog",
		"--dir /x --pool cpu=/sys/x --cgroup none -- prog", "--dir /x --cpu 101% -- prog", "--dir /x --tier T4 -- prog", "--dir /x --keep-fd 2 -- prog",
		"--dir /x --keep-fd x -- prog", "--dir /x --owner-fd 1 -- prog", "--dir /x --owner-fd -1 -- prog", "--dir /x --system some -- prog",
		"--dir /x --output a -- prog", "--dir /x --build --output ../a -- prog", "--dir /x --build --tier T2 -- prog",
		"--probe prog", "--version prog", "--dir /x --what -- prog", "--dir /x --env novalue -- prog", "--dir /x --read rel -- prog",
	} {
		if o, err := parse(strings.Fields(line), io.Discard); err == nil {
			t.Errorf("%q is taken: %+v", line, o)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var help strings.Builder
	_, err := parse([]string{"--help"}, &help)
	if err == nil {
		t.Fatal("help is no error")
	}
	for _, flag := range []string{"-dir", "-memory", "-cpu", "-tier", "-keep-fd", "-report", "-owner-fd", "-probe"} {
		if !strings.Contains(help.String(), flag) {
			t.Errorf("the help does not name %s", flag)
		}
	}
}

// A program gets the number of its socket only if it gets the socket.
func TestInheritedEnv(t *testing.T) {
	env := func(list ...string) func(string) (string, bool) {
		return func(key string) (string, bool) {
			for _, kv := range list {
				if k, v, _ := strings.Cut(kv, "="); k == key {
					return v, true
				}
			}
			return "", false
		}
	}
	for _, c := range []struct {
		keep []int
		env  []string
		want []string
	}{
		{[]int{3}, []string{"CELL_FD=3", "CELL_NAME=a", "SECRET=x"}, []string{"CELL_NAME=a", "CELL_FD=3"}},
		{nil, []string{"CELL_FD=3"}, nil},
		{[]int{3}, []string{"CELL_FD=x"}, nil},
		{[]int{4}, []string{cellproto.EnvFD + "=3"}, nil},
	} {
		if got := inheritedEnv(c.keep, env(c.env...)); !slices.Equal(got, c.want) {
			t.Errorf("of %v with %v: %v", c.env, c.keep, got)
		}
	}
}
