package cell

import (
	"testing"

	"github.com/celldnet/celld/cellproto"
)

func TestStubSaysWhatItWasMadeFor(t *testing.T) {
	hash := cellproto.SchemaHash{7}
	l, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	NewStubFor(l, "", "no hash")
	if l.made != nil {
		t.Error("what is no hash was taken")
	}
	NewStubFor(l, "", hash.String())
	NewStubFor(l, "", cellproto.SchemaHash{8}.String()) // the first one has said it
	if string(l.made) != string(hash[:]) {
		t.Errorf("it says %x", l.made)
	}
	var out cellproto.Request
	r := Request{Func: "f", To: "maths", Quorum: "2of3", meta: NewStubFor(nil, "maths", hash.String()).meta}
	if err := r.encode(&out); err != nil {
		t.Fatal(err)
	}
	if got := out.Header.Meta[cellproto.MetaMadeFor]; got != hash.String() || out.Header.Meta[cellproto.MetaQuorum] != "2of3" || len(r.meta) != 1 {
		t.Errorf("the meta is %v, that of the stub %v", out.Header.Meta, r.meta)
	}
}
