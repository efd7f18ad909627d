package signed

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/celldnet/celld/cellproto"
	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/record"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"
)

func testManifest() Manifest {
	return Manifest{
		Name: "calculator", Version: "1.2.0-rc.1+b7", Created: testNow.UnixMilli(),
		Prev:       Link{testCID(cid.DagCBOR, "the version before")},
		Schema:     Link{testCID(cid.DagJSON, "schema")},
		SchemaHash: hash32(1),
		Accepted:   []cellproto.SchemaHash{hash32(1), hash32(2)},
		Artefacts: []Artefact{
			{OS: "darwin", Arch: "arm64", CID: Link{testCID(cid.DagProtobuf, "darwin")}, Size: 8 << 20, BLAKE3: hash32(3)},
			{OS: "linux", Arch: "amd64", CID: Link{testCID(cid.DagProtobuf, "linux")}, Size: 9 << 20, BLAKE3: hash32(4)},
			{OS: "linux", Arch: "mipsle-softfloat", CID: Link{testCID(cid.Raw, "mips")}, Size: 1, BLAKE3: hash32(5)},
		},
		Source:    &Source{Repo: "https://example.org/calculator.git", Ref: "v1.2.0", Commit: strings.Repeat("0a", 20), Build: "go build -o bin/calculator ."},
		Resources: Resources{CPUMilli: 1000, MemoryBytes: 256 << 20, Concurrency: 100},
		SLO:       SLO{MaxP99Ms: 150, MinBandwidthMbps: 100},
		Privacy:   "public", License: "Apache-2.0",
	}
}

func sealed(t testing.TB, m Manifest) ([]byte, cid.Cid) {
	t.Helper()
	block, id, err := SealManifest(m, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return block, id
}

// blockOf signs any body with a key.
func blockOf(t testing.TB, body []byte, key crypto.PrivKey) []byte {
	t.Helper()
	sig, err := key.Sign(preimage(domainManifest, typeManifest, body))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := crypto.MarshalPublicKey(key.GetPublic())
	if err != nil {
		t.Fatal(err)
	}
	block := append([]byte("\xa3\x63key"), encode(t, pub)...)
	block = append(append(block, "\x63sig"...), encode(t, sig)...)
	return append(append(block, "\x64body"...), body...) // by hand: body may be spelled in any way
}

func idOf(t testing.TB, block []byte) cid.Cid {
	t.Helper()
	id, err := manifestPrefix.Sum(block)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// manifestVectors makes every vector of manifest.json.
func manifestVectors(t testing.TB) vectorFile {
	file := vectorFile{About: "Manifest blocks (dag-cbor) and the CID that was asked for. kind: what opening them has to give; without one they open."}
	add := func(name, kind string, id cid.Cid, block []byte) {
		file.Vectors = append(file.Vectors, vector{Name: name, CID: id.String(), Hex: hex.EncodeToString(block), Kind: kind})
	}
	base := testManifest()
	base.Owner = cellproto.PeerID(testPeer(1).String())
	block, id := sealed(t, base)
	add("full", "", id, block)
	minimal, minimalID := sealed(t, Manifest{Name: "x", Version: "0.0.1", Created: 1, Privacy: "local"})
	add("nothing that can be left out", "", minimalID, minimal)

	lines := base
	lines.Speaks = "jsonl"
	linesBlock, linesID := sealed(t, lines)
	add("of a program that speaks jsonl", "", linesID, linesBlock)

	for _, challenge := range []string{"none", "sig"} {
		asks := base
		asks.Challenge = challenge
		asksBlock, asksID := sealed(t, asks)
		add("of a cell with the challenge "+challenge, "", asksID, asksBlock)
	}

	for _, alone := range []Alone{AloneOwner, AloneCalls, AloneState} {
		kept := base
		kept.Alone = alone
		keptBlock, keptID := sealed(t, kept)
		add("of a cell that is not copied unasked: "+string(alone), "", keptID, keptBlock)
	}

	// What is wrong before the body is looked at.
	add("another block under this CID", "corrupt", id, minimal)
	add("CID of the codec raw", "bad input", cid.NewCidV1(cid.Raw, id.Hash()), block)
	add("CIDv0", "bad input", cid.NewCidV0(id.Hash()), block)
	long, err := multihash.Sum(block, multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	add("CID by sha2-512", "bad input", cid.NewCidV1(cid.DagCBOR, long), block)
	other := func(name, kind string, block []byte) { add(name, kind, idOf(t, block), block) }
	other("empty block", "bad input", nil)
	other("something behind", "bad input", append(bytes.Clone(block), 0))
	other("cut", "bad input", block[:len(block)-1])
	outer := fields(t, cbor.RawMessage(block))
	tamper := func(name, kind, key string, value any) {
		m := map[string]any{}
		for k, v := range outer {
			m[k] = v
		}
		m[key] = value
		if value == nil {
			delete(m, key)
		}
		other(name, kind, encode(t, m))
	}
	sig := bytes.Clone(outer["sig"].([]byte))
	sig[0] ^= 1
	pub2, _ := crypto.MarshalPublicKey(testKey(2).GetPublic())
	tamper("false signature", "corrupt", "sig", sig)
	tamper("no signature", "bad input", "sig", nil)
	tamper("empty signature", "corrupt", "sig", []byte{})
	tamper("another key", "corrupt", "key", pub2)
	tamper("no key", "bad input", "key", []byte{})
	tamper("key with a field behind", "bad input", "key", append(bytes.Clone(outer["key"].([]byte)), 0x18, 0x01))
	tamper("unknown key of the block", "bad input", "extra", 1)
	other("block is a list", "bad input", encode(t, []any{outer["body"], outer["key"], outer["sig"]}))
	other("keys in another order", "bad input", reorder(t, block))

	body := encode(t, base.normal())
	wrongDomain, err := testKey(1).Sign(preimage(domainAdvert, typeManifest, body))
	if err != nil {
		t.Fatal(err)
	}
	tamper("signed in the domain of an advert", "corrupt", "sig", wrongDomain)
	signed := func(name, kind string, body []byte) { other(name, kind, blockOf(t, body, testKey(1))) }
	other("key of type secp256k1", "unsupported", blockOf(t, body, otherKey(t)))
	other("owner is another", "corrupt", blockOf(t, body, testKey(2)))

	// What is wrong in the spelling of the body.
	signed("body of version 2", "unsupported", encode(t, with(t, base, "v", 2, "novelty", true)))
	signed("body of version 0", "bad input", encode(t, with(t, base, "v", 0)))
	signed("unknown field", "bad input", encode(t, with(t, base, "novelty", 1)))
	signed("field in capitals", "bad input", encode(t, with(t, base, "Name", "x")))
	for _, key := range sorted(fields(t, base.normal())) {
		signed("without "+key, "bad input", encode(t, without(t, base, key)))
	}
	signed("key twice", "bad input", append(append([]byte{body[0] + 1}, body[1:]...), 0x61, 'v', 0x01))
	signed("indefinite length", "bad input", append(append([]byte{0xbf}, body[1:]...), 0xff))
	signed("length in more bytes than needed", "bad input", append([]byte{0xb8, body[0] & 31}, body[1:]...))
	signed("speaks nothing", "bad input", encode(t, with(t, base, "speaks", "")))
	signed("speaks frames, and says so", "bad input", encode(t, with(t, base, "speaks", "frames")))
	signed("no challenge", "bad input", encode(t, with(t, base, "challenge", "")))
	signed("challenge simple, and says so", "bad input", encode(t, with(t, base, "challenge", "simple")))
	signed("challenge null", "bad input", encode(t, with(t, base, "challenge", nil)))
	signed("challenge of another sort", "bad input", encode(t, with(t, base, "challenge", "password")))
	signed("speaks null", "bad input", encode(t, with(t, base, "speaks", nil)))
	signed("body a text", "bad input", encode(t, "body"))
	signed("float", "bad input", encode(t, with(t, base, "created", 1.5)))
	signed("integer as float", "bad input", encode(t, with(t, base, "created", float64(1.5e12))))
	signed("tag around a text", "bad input", encode(t, with(t, base, "name", cbor.Tag{Number: 100, Content: "calculator"})))
	signed("name as bytes", "bad input", encode(t, with(t, base, "name", []byte("calculator"))))
	signed("name null", "bad input", encode(t, with(t, base, "name", nil)))
	signed("bad UTF-8", "bad input", bytes.Replace(body, []byte("Apache"), []byte("Apach\xff"), 1))
	signed("hash of 31 bytes", "bad input", encode(t, with(t, base, "schema_hash", make([]byte, 31))))
	signed("hash of 33 bytes", "bad input", encode(t, with(t, base, "schema_hash", make([]byte, 33))))
	signed("accepted null", "bad input", encode(t, with(t, base, "accepted", nil)))
	signed("prev without the zero byte", "bad input", encode(t, with(t, base, "prev", cbor.Tag{Number: 42, Content: base.Prev.Bytes()})))
	signed("prev with another tag", "bad input", encode(t, with(t, base, "prev", cbor.Tag{Number: 43, Content: append([]byte{0}, base.Prev.Bytes()...)})))
	signed("prev not tagged", "bad input", encode(t, with(t, base, "prev", append([]byte{0}, base.Prev.Bytes()...))))
	signed("prev an empty link", "bad input", encode(t, with(t, base, "prev", cbor.Tag{Number: 42, Content: []byte{0}})))

	// What is wrong in the fields.
	many := make([]cellproto.SchemaHash, cellproto.MaxManifestEntries)
	for i := range many {
		many[i] = cellproto.SchemaHash{byte(i >> 8), byte(i), 1}
	}
	signed("257 list entries in one list", "too large", encode(t, with(t, base, "accepted", append(many, hash32(0xff)))))
	signed("259 list entries in two lists", "too large", encode(t, with(t, base, "accepted", many)))
	identity, err := multihash.Sum([]byte("inline"), multihash.IDENTITY, -1)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		edit func(m *Manifest)
	}{
		{"name in capitals", func(m *Manifest) { m.Name = "Calc" }},
		{"no name", func(m *Manifest) { m.Name = "" }},
		{"version 1.2", func(m *Manifest) { m.Version = "1.2" }},
		{"version 01.2.3", func(m *Manifest) { m.Version = "01.2.3" }},
		{"version v1.2.3", func(m *Manifest) { m.Version = "v1.2.3" }},
		{"version 1.2.3-01", func(m *Manifest) { m.Version = "1.2.3-01" }},
		{"owner is no peer ID", func(m *Manifest) { m.Owner = "ann" }},
		{"created 0", func(m *Manifest) { m.Created = 0 }},
		{"created past 2^53", func(m *Manifest) { m.Created = 1 << 53 }},
		{"prev of the codec raw", func(m *Manifest) { m.Prev = Link{testCID(cid.Raw, "x")} }},
		{"schema linked without its hash", func(m *Manifest) { m.SchemaHash = cellproto.SchemaHash{} }},
		{"schema in its CID", func(m *Manifest) { m.Schema = Link{cid.NewCidV1(cid.Raw, identity)} }},
		{"accepted not in order", func(m *Manifest) { m.Accepted[0], m.Accepted[1] = m.Accepted[1], m.Accepted[0] }},
		{"accepted twice", func(m *Manifest) { m.Accepted[1] = m.Accepted[0] }},
		{"accepted zero", func(m *Manifest) { m.Accepted[0] = cellproto.SchemaHash{} }},
		{"artefacts not in order", func(m *Manifest) { m.Artefacts[0], m.Artefacts[1] = m.Artefacts[1], m.Artefacts[0] }},
		{"artefact twice", func(m *Manifest) { m.Artefacts[1] = m.Artefacts[0] }},
		{"artefact without os", func(m *Manifest) { m.Artefacts[0].OS = "" }},
		{"artefact for a path", func(m *Manifest) { m.Artefacts[0].Arch = "../x" }},
		{"artefact of no bytes", func(m *Manifest) { m.Artefacts[0].Size = 0 }},
		{"artefact of less than no bytes", func(m *Manifest) { m.Artefacts[0].Size = -1 }},
		{"artefact without CID", func(m *Manifest) { m.Artefacts[0].CID = Link{} }},
		{"artefact in its CID", func(m *Manifest) { m.Artefacts[0].CID = Link{cid.NewCidV1(cid.Raw, identity)} }},
		{"artefact without blake3", func(m *Manifest) { m.Artefacts[0].BLAKE3 = Digest{} }},
		{"repo by ssh", func(m *Manifest) { m.Source.Repo = "ssh://example.org/x" }},
		{"repo that runs a program", func(m *Manifest) { m.Source.Repo = "ext::sh -c id" }},
		{"repo with a password", func(m *Manifest) { m.Source.Repo = "https://ann:pw@example.org/x" }},
		{"repo that is a flag", func(m *Manifest) { m.Source.Repo = "--upload-pack=id" }},
		{"ref that is a flag", func(m *Manifest) { m.Source.Ref = "--upload-pack=id" }},
		{"commit of 39 digits", func(m *Manifest) { m.Source.Commit = strings.Repeat("a", 39) }},
		{"commit in capitals", func(m *Manifest) { m.Source.Commit = strings.Repeat("A", 40) }},
		{"build of two lines", func(m *Manifest) { m.Source.Build = "make\nrm -r ~" }},
		{"cpu below zero", func(m *Manifest) { m.Resources.CPUMilli = -1 }},
		{"gpu with an escape", func(m *Manifest) { m.Resources.GPU = "\x1b[2J" }},
		{"slo below zero", func(m *Manifest) { m.SLO.MaxP99Ms = -1 }},
		{"privacy secret", func(m *Manifest) { m.Privacy = "secret" }},
		{"license of 257 bytes", func(m *Manifest) { m.License = strings.Repeat("x", 257) }},
	} {
		m := base.normal()
		source := *base.Source
		m.Source = &source
		c.edit(&m)
		kind := "bad input"
		if strings.HasPrefix(c.name, "owner") {
			kind = "corrupt" // it is compared with the key first
		}
		signed(c.name, kind, encode(t, m))
	}
	return file
}

// with gives the manifest's fields with some set: key, value, key, value.
func with(t testing.TB, m Manifest, set ...any) map[string]any {
	f := fields(t, m.normal())
	for i := 0; i < len(set); i += 2 {
		f[set[i].(string)] = set[i+1]
	}
	return f
}

func without(t testing.TB, m Manifest, key string) map[string]any {
	f := fields(t, m.normal())
	delete(f, key)
	return f
}

func sorted(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	for i := range keys {
		for j := i; j > 0 && keys[j] < keys[j-1]; j-- {
			keys[j], keys[j-1] = keys[j-1], keys[j]
		}
	}
	return keys
}

// reorder moves "key", the first member of the block, behind the others.
func reorder(t testing.TB, block []byte) []byte {
	t.Helper()
	i := bytes.LastIndex(block, []byte("\x63sig"))
	if i < 0 || block[0] != 0xa3 {
		t.Fatal("not a block")
	}
	return append(append([]byte{0xa3}, block[i:]...), block[1:i]...)
}

func TestManifestVectors(t *testing.T) {
	for _, v := range vectors(t, "manifest.json", manifestVectors(t)).Vectors {
		t.Run(v.Name, func(t *testing.T) {
			id, err := cid.Decode(v.CID)
			if err != nil {
				t.Fatal(err)
			}
			_, err = OpenManifest(id, v.bytes(t))
			v.check(t, err)
		})
	}
}

func TestManifestRoundTrip(t *testing.T) {
	m := testManifest()
	m.Artefacts[0], m.Artefacts[2] = m.Artefacts[2], m.Artefacts[0]
	block, id := sealed(t, m)
	again, idAgain := sealed(t, testManifest())
	if !bytes.Equal(block, again) || id != idAgain {
		t.Error("the order of the artefacts changes the block")
	}
	got, err := OpenManifest(id, block)
	if err != nil {
		t.Fatal(err)
	}
	want := testManifest().normal()
	want.Owner = cellproto.PeerID(testPeer(1).String())
	if !reflect.DeepEqual(*got, want) {
		t.Errorf("got  %+v\nwant %+v", *got, want)
	}
	if a, ok := got.Artefact("linux", "amd64"); !ok || a.Size != 9<<20 {
		t.Error("no artefact for linux/amd64")
	}
	if _, ok := got.Artefact("linux", "riscv64"); ok {
		t.Error("an artefact for linux/riscv64")
	}
}

// The signature is libp2p's: an envelope around the same body ends with it.
func TestManifestSignatureIsThatOfAnEnvelope(t *testing.T) {
	block, _ := sealed(t, testManifest())
	var b manifestBlock
	if err := decodeCanonical("test", block, &b); err != nil {
		t.Fatal(err)
	}
	env, err := record.Seal(rawObject{domainManifest, typeManifest, b.Body}, testKey(1))
	if err != nil {
		t.Fatal(err)
	}
	data, err := env.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(data, append([]byte{0x2a, 64}, b.Sig...)) {
		t.Errorf("envelope %x\nsignature %x", data, b.Sig)
	}
}

// Any IPFS node reads the block and walks its links.
func TestManifestIsDagCBOR(t *testing.T) {
	block, _ := sealed(t, testManifest())
	builder := basicnode.Prototype.Any.NewBuilder()
	if err := dagcbor.Decode(builder, bytes.NewReader(block)); err != nil {
		t.Fatal(err)
	}
	node := builder.Build()
	var again bytes.Buffer
	if err := dagcbor.Encode(node, &again); err != nil || !bytes.Equal(again.Bytes(), block) {
		t.Errorf("dag-cbor writes it differently: %v", err)
	}
	for _, key := range []string{"body", "schema"} {
		var err error
		if node, err = node.LookupByString(key); err != nil {
			t.Fatal(err)
		}
	}
	link, err := node.AsLink()
	if err != nil || link.String() != testManifest().Schema.String() {
		t.Errorf("%v, %v", link, err)
	}
}

func TestManifestEveryFlippedByteIsRefused(t *testing.T) {
	block, id := sealed(t, testManifest())
	for i := range block {
		for _, flip := range []byte{0xff, 1 << (i % 8)} {
			bad := bytes.Clone(block)
			bad[i] ^= flip
			if _, err := OpenManifest(id, bad); cellproto.KindOf(err) != cellproto.Corrupt {
				t.Fatalf("byte %d: %v", i, err)
			}
			// Under its own CID the signature has to notice.
			if _, err := OpenManifest(idOf(t, bad), bad); err == nil {
				t.Fatalf("byte %d xor %x passes", i, flip)
			}
		}
	}
}

func TestSealManifestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*Manifest)
		key  crypto.PrivKey
		kind cellproto.Kind
	}{
		"another owner": {func(m *Manifest) { m.Owner = cellproto.PeerID(testPeer(2).String()) }, testKey(1), cellproto.Denied},
		"another key":   {func(*Manifest) {}, otherKey(t), cellproto.Unsupported},
		"bad name":      {func(m *Manifest) { m.Name = "-" }, testKey(1), cellproto.BadInput},
		"twice":         {func(m *Manifest) { m.Artefacts[0] = m.Artefacts[1] }, testKey(1), cellproto.BadInput},
		"too many":      {func(m *Manifest) { m.Accepted = make([]cellproto.SchemaHash, 257) }, testKey(1), cellproto.TooLarge},
	} {
		m := testManifest()
		c.edit(&m)
		if _, _, err := SealManifest(m, c.key); cellproto.KindOf(err) != c.kind {
			t.Errorf("%s: %v, want %v", name, err, c.kind)
		}
	}
	big := make([]byte, cellproto.MaxManifest+1)
	if _, err := OpenManifest(idOf(t, big), big); cellproto.KindOf(err) != cellproto.TooLarge {
		t.Error(err)
	}
}

func TestManifestAfter(t *testing.T) {
	m := testManifest()
	m.Owner = cellproto.PeerID(testPeer(1).String())
	block, id := sealed(t, m)
	last, err := OpenManifest(id, block)
	if err != nil {
		t.Fatal(err)
	}
	same := m
	same.Created, same.Prev = m.Created+1000, Link{}
	if _, sameID := sealed(t, same.After(*last, id)); sameID != id {
		t.Error("publishing again with nothing changed gives another CID")
	}
	next := same
	next.Version = "1.3.0"
	next = next.After(*last, id)
	if !next.Prev.Equals(id) || next.Created != same.Created {
		t.Errorf("%+v does not follow %s", next, id)
	}
	if _, nextID := sealed(t, next); nextID == id {
		t.Error("another version has the same CID")
	}
}

func TestManifestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := drawManifest(t)
		block, id, err := SealManifest(m, testKey(1))
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenManifest(id, block)
		if err != nil {
			t.Fatal(err)
		}
		if !got.SameContent(*got) || got.Created != m.Created {
			t.Fatal("it differs from itself")
		}
		again, idAgain, err := SealManifest(*got, testKey(1))
		if err != nil || id != idAgain || !bytes.Equal(again, block) {
			t.Fatalf("sealing what was opened gives another block: %v", err)
		}
	})
}

func drawManifest(t *rapid.T) Manifest {
	integer := rapid.Int64Range(0, maxInt)
	m := Manifest{
		Name:      rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,62}`).Draw(t, "name"),
		Version:   rapid.StringMatching(`(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]?)\.0(-[a-z]{1,4}(\.[1-9])?)?(\+[0-9a-z]{1,4})?`).Draw(t, "version"),
		Created:   rapid.Int64Range(1, maxInt).Draw(t, "created"),
		Resources: Resources{integer.Draw(t, "cpu"), integer.Draw(t, "memory"), integer.Draw(t, "concurrency"), ""},
		SLO:       SLO{integer.Draw(t, "p99"), integer.Draw(t, "bandwidth")},
		Privacy:   rapid.SampledFrom([]string{"public", "friends", "local"}).Draw(t, "privacy"),
		License:   rapid.StringMatching(`[ -~é€]{0,40}`).Draw(t, "license"),
		Speaks:    rapid.SampledFrom([]string{"", "jsonl"}).Draw(t, "speaks"),
		Alone:     rapid.SampledFrom([]Alone{"", AloneOwner, AloneCalls, AloneState}).Draw(t, "alone"),
		Challenge: rapid.SampledFrom([]string{"", "none", "sig"}).Draw(t, "challenge"),
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "artefacts") {
		m.Artefacts = append(m.Artefacts, Artefact{
			OS: "os", Arch: fmt.Sprint("a", i), CID: Link{testCID(cid.Raw, fmt.Sprint(i))},
			Size: rapid.Int64Range(1, maxInt).Draw(t, "size"), BLAKE3: hash32(9),
		})
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "accepted") {
		m.Accepted = append(m.Accepted, hash32(byte(255-i)))
	}
	if rapid.Bool().Draw(t, "prev") {
		m.Prev = Link{testCID(cid.DagCBOR, "prev")}
	}
	if rapid.Bool().Draw(t, "source") {
		m.Source = &Source{Repo: "file:///srv/x", Build: rapid.StringMatching(`[ -~]{0,80}`).Draw(t, "build")}
	}
	return m
}

func FuzzOpenManifest(f *testing.F) {
	for _, v := range manifestVectors(f).Vectors {
		f.Add(v.bytes(f), false)
		var b manifestBlock
		if decMode.Unmarshal(v.bytes(f), &b) == nil {
			f.Add([]byte(b.Body), true) // what comes behind a good signature
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign {
			if cbor.Wellformed(data) != nil {
				return
			}
			data = blockOf(t, data, testKey(1))
		}
		m, err := OpenManifest(idOf(t, data), data)
		if err != nil {
			switch cellproto.KindOf(err) {
			case cellproto.BadInput, cellproto.TooLarge, cellproto.Corrupt, cellproto.Unsupported:
			default:
				t.Fatalf("kind of %v", err)
			}
			return
		}
		if string(m.Owner) != testPeer(1).String() {
			return // made by a fuzzer that knows Ed25519
		}
		again, _, err := SealManifest(*m, testKey(1))
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("it opens, but seals to other bytes: %v", err)
		}
	})
}
