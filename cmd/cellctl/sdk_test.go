package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"go/build"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const staleSDK = "run scripts/sdk-archive.sh"

// readArchive gives the files of the embedded archive.
func readArchive(t *testing.T) map[string][]byte {
	t.Helper()
	gz, err := gzip.NewReader(strings.NewReader(sdkArchive))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	r := tar.NewReader(gz)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) {
			t.Fatalf("%s is not a plain file", h.Name)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// What cellctl init unpacks is the SDK as it is now.
func TestSDKArchiveIsFresh(t *testing.T) {
	files := readArchive(t)
	const ours = "vendor/github.com/celldnet/celld/"
	want := map[string]bool{}
	for _, dir := range []string{"cellproto", "cellproto/cell", "cellproto/wire"} {
		for _, platform := range []string{"linux", "darwin"} {
			c := build.Default
			c.GOOS, c.GOARCH, c.CgoEnabled = platform, "arm64", false
			p, err := c.ImportDir(filepath.Join("../..", dir), 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range slices.Concat(p.GoFiles, p.SFiles) {
				want[dir+"/"+f] = true
			}
		}
	}
	for name := range want {
		now, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			t.Fatal(err)
		}
		if then, ok := files[ours+name]; !ok || !bytes.Equal(now, then) {
			t.Fatalf("%s has changed since: %s", name, staleSDK)
		}
	}
	for name := range files {
		if rest, ok := strings.CutPrefix(name, ours); ok && !want[rest] && rest != "LICENSE" {
			t.Errorf("%s is there no more: %s", rest, staleSDK)
		}
	}
	checkVersions(t, string(files["vendor/modules.txt"]))
}

// checkVersions compares the versions in the archive with the project's.
func checkVersions(t *testing.T, modules string) {
	t.Helper()
	project, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(modules) {
		module, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		if !ok || strings.HasPrefix(module, "github.com/celldnet/celld ") {
			continue
		}
		if !strings.Contains(string(project), module) {
			t.Errorf("the project has no %s: %s", module, staleSDK)
		}
	}
}

// Whoever passes a cell's directory on passes the licences on too.
func TestSDKArchiveLicences(t *testing.T) {
	files := readArchive(t)
	for line := range strings.Lines(string(files["vendor/modules.txt"])) {
		module, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		if !ok {
			continue
		}
		path, _, _ := strings.Cut(module, " ")
		if _, err := os.Stat("../../LICENSE"); err != nil && path == "github.com/celldnet/celld" {
			continue
		}
		if _, ok := files["vendor/"+path+"/LICENSE"]; !ok {
			t.Errorf("%s is without its licence", path)
		}
	}
}

// cellctl starts in milliseconds because of what it does not link.
func TestLinksLittle(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	const own = "github.com/celldnet/celld/"
	allowed := []string{"cellproto", "cellproto/celllock", "cellproto/celltoml", "cellproto/patch", "cellproto/wire", "internal/ctl", "cmd/cellctl", "cmd/cellctl/gen", "ledger"}
	for _, p := range strings.Fields(string(out)) {
		if p == "net/http" || p == "crypto/tls" || strings.Contains(p, "libp2p") || strings.Contains(p, "ipfs") {
			t.Errorf("cellctl links %s", p)
		}
		if rest, ok := strings.CutPrefix(p, own); ok && !slices.Contains(allowed, rest) {
			t.Errorf("cellctl links %s", p)
		}
	}
}
