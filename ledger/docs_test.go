package ledger

import (
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/ledger.md shows is an entry, and what it tells to type says so.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/ledger.md")
	if err != nil {
		t.Fatal(err)
	}
	fence := func(kind string) string {
		m := regexp.MustCompile("(?s)```" + kind + "\n(.*?)```").FindSubmatch(text)
		if m == nil {
			t.Fatalf("no %s", kind)
		}
		return string(m[1])
	}
	entry := fence("entry")
	data, err := hex.DecodeString(strings.Join(strings.Fields(entry), ""))
	if err != nil {
		t.Fatal(err)
	}
	id, err := openAny(data)
	if err != nil || !strings.Contains(string(text), "`"+id.CID()+"`") {
		t.Fatalf("%s, %v", id.CID(), err)
	}
	for _, tool := range []string{"sh", "xxd", "openssl", "base32", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "entry.hex"), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-e", "-c", fence("sh"))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Verified Successfully") || !strings.Contains(string(out), id.CID()) {
		t.Errorf("%s%v", out, err)
	}
}
