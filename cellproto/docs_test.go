package cellproto

import (
	"encoding/hex"
	"os"
	"regexp"
	"strings"
	"testing"
)

var (
	frameFence = regexp.MustCompile("(?ms)^```frame\n(.*?)^```$")
	fenceNote  = regexp.MustCompile(`#.*`)
	heading    = regexp.MustCompile(`(?m)^#+ (.*)$`)
	localLink  = regexp.MustCompile(`\]\(#([^)]*)\)`)
	notAnchor  = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestProtocolDocument: the frames that docs/protocol.md shows are frames, and those of the vectors.
func TestProtocolDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []goodVector
	load(t, "good.json", &vectors)
	known := map[string]bool{}
	for _, v := range vectors {
		known[v.Hex] = true
	}
	fences := frameFence.FindAllSubmatch(text, -1)
	if len(fences) < 10 {
		t.Errorf("%d examples", len(fences))
	}
	types := map[FrameType]bool{}
	for _, fence := range fences {
		example := strings.Join(strings.Fields(fenceNote.ReplaceAllString(string(fence[1]), "")), "")
		data, err := hex.DecodeString(example)
		if err != nil {
			t.Errorf("%s: %v", fence[1], err)
		}
		for len(data) > 0 {
			f, n, err := ParseFrame(data)
			if err != nil || n == 0 {
				t.Errorf("%s: %v, %d bytes are left", fence[1], err, len(data))
				break
			}
			if !known[hex.EncodeToString(data[:n])] {
				t.Errorf("%s: %v is none of the vectors", fence[1], &f)
			}
			if f.Type == TypeHello {
				if _, err := ParseHello(f.Payload); err != nil {
					t.Errorf("%s: %v", fence[1], err)
				}
			}
			types[f.Type] = true
			data = data[n:]
		}
	}
	if len(types) != int(TypeCredit) {
		t.Errorf("examples of %d types", len(types))
	}
	anchors := map[string]bool{}
	for _, h := range heading.FindAllSubmatch(text, -1) {
		anchors[strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(string(h[1])), ""), " ", "-")] = true
	}
	for _, l := range localLink.FindAllSubmatch(text, -1) {
		if !anchors[string(l[1])] {
			t.Errorf("no section #%s", l[1])
		}
	}
}
