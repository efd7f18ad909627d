package call

import (
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// A provider's program is one of the manifest's, or was built from its source at its commit.
func TestRuns(t *testing.T) {
	commit := strings.Repeat("ab", 20)
	m := &signed.Manifest{
		Artefacts: []signed.Artefact{{BLAKE3: signed.Digest{1}}, {BLAKE3: signed.Digest{2}}},
		Source:    &signed.Source{Repo: "https://example.org/x.git", Ref: "main", Commit: commit},
	}
	loose := &signed.Manifest{Source: &signed.Source{Repo: "https://example.org/x.git", Ref: "main"}}
	for _, c := range []struct {
		name string
		m    *signed.Manifest
		p    program
		ok   bool
	}{
		{"the manifest is not known", nil, program{binary: signed.Digest{9}}, true},
		{"it says nothing", m, program{}, true},
		{"an artefact", m, program{binary: signed.Digest{2}}, true},
		{"another program", m, program{binary: signed.Digest{9}}, false},
		{"built", m, program{signed.Digest{9}, m.Source.Repo, commit}, true},
		{"built from a branch", m, program{signed.Digest{9}, m.Source.Repo, "main"}, false},
		{"built from another repository", m, program{signed.Digest{9}, "https://example.org/y.git", commit}, false},
		{"a source that is not pinned", loose, program{signed.Digest{9}, loose.Source.Repo, ""}, false},
		{"no source", &signed.Manifest{}, program{signed.Digest{9}, "", ""}, false},
	} {
		if err := runs("x", c.m, c.p); (err == nil) != c.ok || err != nil && cellproto.KindOf(err) != cellproto.Corrupt {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
