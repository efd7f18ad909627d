package celltest

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// omitTags are those of builds for routers, as the script that makes them has them.
func omitTags(t *testing.T) string {
	t.Helper()
	script, err := os.ReadFile(moduleRoot + "/scripts/build-all.sh")
	if err != nil {
		t.Fatal(err)
	}
	tags := regexp.MustCompile(`(?m)^celld_omit_\w+`).FindAllString(string(script), -1)
	if len(tags) == 0 {
		t.Fatal("scripts/build-all.sh leaves nothing out")
	}
	return strings.Join(tags, ",")
}

// rss gives the resident memory of a process, in KiB.
func rss(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Skip("there is no /proc")
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// A nucleus of the router profile joins a network, calls and is called, with the celld of a computer and with
// the one that is built for routers.
func TestRouterProfile(t *testing.T) {
	t.Parallel()
	lean := filepath.Join(t.TempDir(), "celld")
	cmd := exec.Command("go", "build", "-tags", omitTags(t), "-ldflags", "-s -w", "-o", lean, "./cmd/celld")
	cmd.Dir, cmd.Env = moduleRoot, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, celld := range map[string]string{"full": "", "lean": lean} {
		t.Run(name, func(t *testing.T) {
			n := New(t)
			a, published := n.provide("calculator")
			router := n.guestbook(false) // the profile confines it
			router.celld, router.args = celld, []string{"--profile", "router"}
			router.Start()
			idle := rss(t, router.PID())
			router.AwaitProviders(published.CID, 1)
			if reply, meta, err := router.Use(t.Context(), published.CID, "add", "3", "4"); err != nil || string(reply) != "7" || meta.Source != "dht" {
				t.Errorf("it gets %s from %s: %v", reply, meta.Source, err)
			}
			own := router.Publish()
			a.AwaitProviders(own.CID, 1)
			for i := range 3 {
				if got := a.visit(own.CID); got != i+1 {
					t.Errorf("called, it counts %d", got)
				}
			}
			s := router.Status()
			if !strings.HasPrefix(s.SandboxTier, "T") || s.Profile != "router" {
				t.Errorf("its profile is %q, its program has the tier %q", s.Profile, s.SandboxTier)
			}
			for _, name := range []string{"cache/dht", "cache/blocks"} {
				if _, err := os.Stat(filepath.Join(router.Dir, name)); err == nil {
					t.Errorf("it has written %s", name)
				}
			}
			t.Logf("%s: RSS %d KiB at the start, %d KiB after calls; a computer's has %d KiB", name, idle, rss(t, router.PID()), rss(t, a.PID()))
			// What it has published it serves again after a crash, though its caches are gone.
			router.Kill()
			router.Start()
			a.AwaitProviders(own.CID, 1)
			Eventually(t, "it is called again", func() bool {
				_, _, err := a.Use(t.Context(), own.CID, "visit")
				return err == nil
			})
			router.Must("upgrade", router.Dir, "--celld", celldOf(t, router))
			if got := router.visit(router.Dir); got < 5 {
				t.Errorf("after an upgrade it counts %d", got)
			}
			if s := router.Status(); s.Profile != "router" {
				t.Errorf("after an upgrade its profile is %q", s.Profile)
			}
		})
	}
}

func celldOf(t *testing.T, c *Cell) string {
	t.Helper()
	if c.celld != "" {
		return c.celld
	}
	return filepath.Join(Bin(t), "celld")
}

// A router runs no program unconfined, whatever cell.toml says, and a profile that there is none of is refused.
func TestRouterConfines(t *testing.T) {
	t.Parallel()
	n := New(t)
	c := n.Example("calculator")
	c.args = []string{"--profile", "router"}
	c.Edit("", "\n[sandbox]\ntier = \"none\"\n")
	c.Start()
	if reply, _, err := c.Use(t.Context(), c.Dir, "add", "1", "2"); err != nil || string(reply) != "3" {
		t.Fatalf("%s, %v", reply, err)
	}
	if s := c.Status(); !strings.HasPrefix(s.SandboxTier, "T") {
		t.Errorf("it runs unconfined: %q", s.SandboxTier)
	}
	other := n.Headless("other")
	other.args = []string{"--profile", "toaster"}
	if p, err := other.spawn(); err == nil || !strings.Contains(err.Error(), "toaster") {
		t.Errorf("a profile that there is none of: %v", err)
	} else {
		other.await(p, Patience)
	}
}
