package mirror

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/signed"
)

// RecordFile makes a cell's directory a mirror. It is this machine's own word on it: what the cell's
// owner says is the manifest under published/.
const RecordFile = "mirror.json"

// maxRecord bounds a record, in bytes.
const maxRecord = 16 << 10

// Record is what a mirror's mirror.json says.
type Record struct {
	CID      string    `json:"cid,omitempty"` // of the manifest; "": it was named by its repository
	Name     string    `json:"name"`
	Version  string    `json:"version"`
	Owner    string    `json:"owner,omitempty"`    // peer ID of the account that signed the manifest
	Source   string    `json:"source"`             // SourceArtefact, or the repository and commit that it was built from
	Public   bool      `json:"public"`             // it is announced; else it listens on its Unix socket only
	Hosted   bool      `json:"hosted,omitempty"`   // for others, as long as this machine has nothing else to do
	AskedBy  string    `json:"asked_by,omitempty"` // peer ID of who asked for it, if it is hosted
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used"`
	State    string    `json:"state"` // StateReady

	Built *signed.Digest `json:"built,omitempty"` // BLAKE3 of the program, if it was built from Source

	Repo   string `json:"repo,omitempty"`   // of a dependency by git
	Commit string `json:"commit,omitempty"` // of it

	ReplacedBy string                 `json:"replaced_by,omitempty"` // CID of a newer version, or commit, that serves
	Accepts    []cellproto.SchemaHash `json:"accepts,omitempty"`     // schemas whose callers that version serves; none: it is not known
}

// What a record says.
const (
	SourceArtefact = "artefact" // the program was fetched by its CID
	StateReady     = "ready"    // it is complete
)

// sourceOf names a source at its commit.
func sourceOf(s *signed.Source) string { return s.Repo + "@" + s.Commit }

// BuiltFrom says whether a program is the one that was built here from the very source that a manifest names.
func (r *Record) BuiltFrom(m *signed.Manifest, program signed.Digest) bool {
	return r.CID != "" && m.Source != nil && m.Source.Commit != "" && r.Source == sourceOf(m.Source) && r.Built != nil && *r.Built == program
}

// ParseRecord reads a record: TooLarge past 16 KiB, else BadInput for what is none.
func ParseRecord(data []byte) (*Record, error) {
	const op = "read " + RecordFile
	if len(data) > maxRecord {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxRecord)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	bad := func(format string, args ...any) (*Record, error) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, format, args...)
	}
	switch {
	case r.CID == "" && (r.Repo == "" || !isCommit(r.Commit)):
		return bad("it names neither a CID nor a commit")
	case r.CID != "" && !isManifest(r.CID):
		return bad("%.80q is not the CID of a manifest", r.CID)
	case !cellproto.ValidCellName(r.Name):
		return bad("%.80q is not the name of a cell", r.Name)
	case r.State != StateReady:
		return bad("there is no state %.40q", r.State)
	case r.Created.IsZero() || r.LastUsed.Before(r.Created):
		return bad("it was used at %v, and made at %v", r.LastUsed, r.Created)
	}
	return &r, nil
}

func isManifest(text string) bool {
	id, err := cid.Decode(text)
	return err == nil && id.Type() == cid.DagCBOR && id.String() == text
}

// ReadRecord reads the record of the cell in dir; nil, and no error, if that is no mirror.
func ReadRecord(dir string) (*Record, error) {
	path := filepath.Join(dir, RecordFile)
	info, err := os.Lstat(path)
	switch {
	case os.IsNotExist(err):
		return nil, nil
	case err == nil && !info.Mode().IsRegular():
		err = fmt.Errorf("it is no regular file")
	}
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	return ParseRecord(data)
}

// write replaces the record of the cell in dir.
func (r *Record) write(dir string) error {
	path := filepath.Join(dir, RecordFile)
	data, err := r.marshal()
	if err == nil {
		err = renameio.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}

func (r *Record) marshal() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return append(data, '\n'), err
}

// Replace notes that a newer version than that of the mirror in dir serves, and for callers by which schemas; "": none does
// any more.
func Replace(dir, by string, accepts ...cellproto.SchemaHash) error {
	return change(dir, func(r *Record) bool {
		changed := r.ReplacedBy != by || !slices.Equal(r.Accepts, accepts)
		r.ReplacedBy, r.Accepts = by, accepts
		return changed
	})
}

// Touch notes that the mirror in dir was used at a time.
func Touch(dir string, at time.Time) error {
	return change(dir, func(r *Record) bool {
		if !at.After(r.LastUsed) {
			return false
		}
		r.LastUsed = at.UTC()
		return true
	})
}

// change rewrites the record of the mirror in dir, if do says that it has changed. Several nuclei do, each of
// which knows something else: they take turns. The lock is on the directory, which is there as long as the mirror
// is. Of what is no mirror nothing is changed.
func change(dir string, do func(*Record) bool) error {
	lock := flock.New(dir, flock.SetFlag(os.O_RDONLY))
	if err := lock.Lock(); os.IsNotExist(err) {
		return nil
	} else if err != nil {
		return cellproto.Errorf("lock "+dir, cellproto.KindOf(err), "%w", err)
	}
	defer lock.Close()
	r, err := ReadRecord(dir)
	if err != nil || r == nil || !do(r) {
		return err
	}
	return r.write(dir)
}

// dirName is the name of a mirror's directory, <owner>-<name>-<ref>: the end of the owner's peer ID, the
// cell's name, the end of the manifest's CID. Of one that was named by its repository: a hash of the URL,
// the end of that, the begin of the commit.
var dirName = regexp.MustCompile(`^[0-9A-Za-z]{8}-[a-z0-9-]{1,63}-[a-z0-9]{12}$`)

const (
	ownerChars = 8
	refChars   = 12 // of base32: 60 bits
)

// nameOf gives the name of the directory of a cell. What a stranger has written is checked once more
// here: whatever the manifest says, nothing but a plain name comes out.
func nameOf(id cid.Cid, m *signed.Manifest) (string, error) {
	owner, ref := string(m.Owner), id.String()
	name := fmt.Sprintf("%s-%s-%s", owner[max(len(owner)-ownerChars, 0):], m.Name, ref[max(len(ref)-refChars, 0):])
	if !dirName.MatchString(name) || !fs.ValidPath(name) {
		return "", cellproto.Errorf("mirror "+id.String(), cellproto.BadInput, "%.100q is not a name for a directory", name)
	}
	return name, nil
}
