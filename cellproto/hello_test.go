package cellproto

import "testing"

func TestHelloMadeFor(t *testing.T) {
	hash := SchemaHash{5}
	data, err := (&Hello{MadeFor: hash[:]}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if h, err := ParseHello(data); err != nil || string(h.MadeFor) != string(hash[:]) {
		t.Errorf("%x, %v", h.MadeFor, err)
	}
	short, err := (&Hello{MadeFor: hash[:31]}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParseHello(short); KindOf(err) != BadInput {
		t.Errorf("a hash of 31 bytes: %v", err)
	}
}
