package signed

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// AdvertFile is cache/advert.json: what a nucleus says of its cell to whoever can read the file. The
// entries of a static list are paths or URLs of such files. It carries no signature: a reader takes
// from it where to ask, and asks for the advert.
type AdvertFile struct {
	Name            string                 `json:"name"`
	Version         string                 `json:"version"`
	Socket          string                 `json:"socket"` // absolute path of the cell's Unix socket, or ""
	Addr            string                 `json:"addr"`   // multiaddr with /p2p at its end, or ""
	Load            Load                   `json:"load"`
	Capacity        uint32                 `json:"capacity"`
	Expires         int64                  `json:"expires"` // Unix time in ms
	Repo            string                 `json:"repo"`
	Ref             string                 `json:"ref"`
	SchemasProvided []cellproto.SchemaHash `json:"schemas_provided"` // hexadecimal
	SchemasAccepted []cellproto.SchemaHash `json:"schemas_accepted"`
	BinaryBLAKE3    Digest                 `json:"binary_blake3"` // hexadecimal
}

// Load is how busy a provider is.
type Load struct {
	P50us int64  `json:"p50_us"`
	P99us int64  `json:"p99_us"`
	Queue uint32 `json:"queue"`
}

// File shows the advert as AdvertFile: its first address, and socket, which only this machine can use.
func (a *Advert) File(socket string) AdvertFile {
	f := AdvertFile{
		Name: a.Name, Version: a.Version, Socket: socket,
		Load:     Load{P50us: a.P50.Microseconds(), P99us: a.P99.Microseconds(), Queue: a.Queue},
		Capacity: a.Capacity, Expires: a.Expires.UnixMilli(), Repo: a.Repo, Ref: a.Ref,
		SchemasProvided: a.SchemasProvided, SchemasAccepted: a.SchemasAccepted, BinaryBLAKE3: a.BinaryBLAKE3,
	}
	if len(a.Addrs) > 0 {
		info := peer.AddrInfo{ID: a.Peer, Addrs: a.Addrs[:1]}
		if _, err := peer.IDFromP2PAddr(a.Addrs[0]); err == nil {
			f.Addr = a.Addrs[0].String()
		} else if full, err := peer.AddrInfoToP2pAddrs(&info); err == nil {
			f.Addr = full[0].String()
		}
	}
	return f
}

// Marshal gives the file's content, one line, every field present. The kind is BadInput or TooLarge
// for what ParseAdvertFile would refuse.
func (f AdvertFile) Marshal() ([]byte, error) {
	const op = "write advert file"
	f.SchemasProvided = append([]cellproto.SchemaHash{}, f.SchemasProvided...)
	f.SchemasAccepted = append([]cellproto.SchemaHash{}, f.SchemasAccepted...)
	data, err := json.Marshal(f)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if len(data) >= cellproto.MaxAdvert {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxAdvert)
	}
	if err := f.check(op); err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// ParseAdvertFile reads such a file: at most MaxAdvert bytes (else TooLarge) of JSON as CheckJSON
// wants it, no other fields, spelled exactly, and a socket or an address to ask; else BadInput.
// Fields but name may be missing, so that a list can be written by hand. Whether it has expired is
// for the caller to judge: a nucleus that sleeps may still be there.
func ParseAdvertFile(data []byte) (*AdvertFile, error) {
	const op = "parse advert file"
	if len(data) > cellproto.MaxAdvert {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, the limit is %d", len(data), cellproto.MaxAdvert)
	}
	if err := cellproto.CheckJSON(data); err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	f := &AdvertFile{}
	err := decodeFields(data, map[string]any{
		"name": &f.Name, "version": &f.Version, "socket": &f.Socket, "addr": &f.Addr, "load": (*loadFields)(&f.Load),
		"capacity": &f.Capacity, "expires": &f.Expires, "repo": &f.Repo, "ref": &f.Ref,
		"schemas_provided": &f.SchemasProvided, "schemas_accepted": &f.SchemasAccepted, "binary_blake3": &f.BinaryBLAKE3,
	})
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if err := f.check(op); err != nil {
		return nil, err
	}
	return f, nil
}

type loadFields Load

func (l *loadFields) UnmarshalJSON(data []byte) error {
	return decodeFields(data, map[string]any{"p50_us": &l.P50us, "p99_us": &l.P99us, "queue": &l.Queue})
}

// decodeFields decodes a JSON object by its exact keys; encoding/json would take "Name" for "name",
// and null for anything.
func decodeFields(data []byte, fields map[string]any) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil || members == nil {
		return cellproto.Errorf("", cellproto.BadInput, "not a JSON object")
	}
	for key, raw := range members {
		field := fields[key]
		if field == nil {
			return cellproto.Errorf("", cellproto.BadInput, "unknown key %.80q", key)
		}
		if string(raw) == "null" {
			return cellproto.Errorf("", cellproto.BadInput, "%s: null; leave the key out instead", key)
		}
		if err := json.Unmarshal(raw, field); err != nil {
			return cellproto.Errorf(key, cellproto.BadInput, "%w", err)
		}
	}
	return nil
}

func (f *AdvertFile) check(op string) error {
	var errVersion, errAddr error
	if f.Version != "" {
		errVersion = checkSemver(f.Version)
	}
	if f.Addr != "" {
		errAddr = checkP2PAddr(f.Addr)
	}
	for _, c := range []struct {
		name string
		err  error
	}{
		{"name", checkName(f.Name)},
		{"version", errVersion},
		{"socket", checkSocket(f.Socket)},
		{"addr", errAddr},
		{"schemas_provided", checkSchemas(f.SchemasProvided)},
		{"schemas_accepted", checkSchemas(f.SchemasAccepted)},
		{"load.p50_us", checkLatency(f.Load.P50us)},
		{"load.p99_us", checkLatency(f.Load.P99us)},
		{"expires", checkInt(f.Expires, 0)},
		{"repo", checkOptionalRepo(f.Repo)},
		{"ref", checkRef(f.Ref)},
	} {
		if c.err != nil {
			return cellproto.Errorf(op, cellproto.BadInput, "%s: %w", c.name, c.err)
		}
	}
	if f.Socket == "" && f.Addr == "" {
		return cellproto.Errorf(op, cellproto.BadInput, "neither socket nor addr")
	}
	return nil
}

// ExpiresAt is Expires as a time; zero when the file does not say.
func (f *AdvertFile) ExpiresAt() time.Time {
	if f.Expires == 0 {
		return time.Time{}
	}
	return time.UnixMilli(f.Expires)
}

func checkSocket(path string) error {
	if path == "" {
		return nil
	}
	if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
		return cellproto.Errorf("", cellproto.BadInput, "%.80q is not an absolute path", path)
	}
	return nil
}

func checkP2PAddr(text string) error {
	addr, err := ma.NewMultiaddr(text)
	if err != nil {
		return err
	}
	_, err = peer.IDFromP2PAddr(addr)
	return err
}
