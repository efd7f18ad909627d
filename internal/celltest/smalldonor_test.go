package celltest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/procfs"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
	"github.com/celldnet/celld/mirror/offer"
)

// asMuchAs gives the share of this machine's memory that is a tenth of what a machine with so many MiB has.
func asMuchAs(t *testing.T, mib float64) string {
	t.Helper()
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		t.Skip(err)
	}
	info, err := fs.Meminfo()
	if err != nil || info.MemTotalBytes == nil {
		t.Skip(err)
	}
	return fmt.Sprintf("%f%%", 10*mib*(1<<20)/float64(*info.MemTotalBytes))
}

// A donor of the size of a small laptop takes up a cell as it is published, and says why it does not take one up that
// needs more than it gives.
func TestSmallDonor(t *testing.T) {
	t.Parallel()
	n := New(t)
	provider, published := n.provide("calculator")
	donor := n.donor("--ram", asMuchAs(t, 4096))
	block, err := os.ReadFile(filepath.Join(provider.Dir, "published", published.CID+".cbor"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStranger(t)
	usual := offer.Offer{Cell: cid.MustParse(published.CID), Block: block, Providers: []peer.AddrInfo{{ID: s.host.ID(), Addrs: s.host.Addrs()}}}
	if r := s.ask(t, donor, usual).Refusal; r != nil {
		t.Errorf("a cell as it is published: %v", r)
	}
	big := s.cell(t, func(m *signed.Manifest) { m.Name, m.Resources.MemoryBytes = "big", 300<<20 })
	if r := newStranger(t).ask(t, donor, big).Refusal; cellproto.KindOf(r) != cellproto.Denied {
		t.Errorf("300 MiB: %v", r)
	}
	text := donor.Must(donor.root, "give", "status")
	for _, want := range []string{"big: 300 MiB of memory are more than the", "there is memory for 3"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}
