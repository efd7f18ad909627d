package load

import (
	"encoding/json"
	"testing"
)

func TestMessageSize(t *testing.T) {
	b, err := json.Marshal(NewMessage())
	if err != nil || len(b) != PayloadSize {
		t.Fatalf("%d bytes, %v: %s", len(b), err, b)
	}
}
