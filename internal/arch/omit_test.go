package arch

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// omitted are the build tags of a celld for routers, and a package that it has no more with each. What go list
// cannot say, since the package is imported by others who do not use it, scripts/build-all.sh looks for
// in the program: "".
var omitted = map[string]string{
	"celld_omit_leveldb":    "github.com/syndtr/goleveldb/leveldb",
	"celld_omit_flatfs":     "github.com/ipfs/go-ds-flatfs",
	"celld_omit_mdns":       "github.com/miekg/dns",
	"celld_omit_transports": "github.com/libp2p/go-libp2p/p2p/transport/webtransport",
	"celld_omit_portmap":    "",
}

func TestOmitted(t *testing.T) {
	deps := func(tags string) []string {
		cmd := exec.Command("go", "list", "-deps", "-tags", tags, "./cmd/celld")
		cmd.Dir = root
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		return strings.Fields(string(out))
	}
	full := deps("")
	for tag, pkg := range omitted {
		if pkg == "" {
			continue
		}
		if !slices.Contains(full, pkg) {
			t.Errorf("celld has no %s any more, by which %s is checked", pkg, tag)
		}
		if slices.Contains(deps(tag), pkg) {
			t.Errorf("celld built with %s has %s; go list -deps -tags %s says through what", tag, pkg, tag)
		}
	}
}

// The script that builds for routers has the same tags, and each is one that some file has.
func TestOmittedByScript(t *testing.T) {
	script, err := os.ReadFile(root + "/scripts/build-all.sh")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^celld_omit_\w+`).FindAllString(string(script), -1)
	for tag := range omitted {
		if !slices.Contains(found, tag) {
			t.Errorf("scripts/build-all.sh does not know %s", tag)
		}
		cmd := exec.Command("grep", "-rlE", "^//go:build !?"+tag+"$", "--include=*.go", ".")
		cmd.Dir = root
		if out, err := cmd.Output(); err != nil || strings.Count(string(out), "\n") != 2 {
			t.Errorf("%s decides about %q: %v", tag, out, err)
		}
	}
	if len(found) != len(omitted) {
		t.Errorf("scripts/build-all.sh has %q", found)
	}
}
