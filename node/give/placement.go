package give

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/celldnet/celld/cellproto"
)

// PlacementFile makes a mirror's directory that of a hosted cell: whoever starts its nucleus, and however
// often, it keeps within these bounds.
const PlacementFile = "hosted.json"

const maxPlacement = 16 << 10 // bytes

// Placement is where a hosted cell runs, and what it may use at most.
type Placement struct {
	// Home is the directory of the home cell whose owner hosts it: while nobody there says that it may, it
	// does not run.
	Home string `json:"home"`
	// Groups are directories of control groups, by controller, "" for version 2, that hold the caps of all
	// hosted cells together; this cell's nucleus and program go below them. None: the shares below do.
	Groups map[string]string `json:"groups,omitempty"`
	// CPU is in cores, Memory in bytes. Disk is its share in bytes a second, also inside of a group: old kernels
	// do not hold what is written through their cache; 0: no limit.
	CPU    float64 `json:"cpu"`
	Memory int64   `json:"memory"`
	Disk   int64   `json:"disk_bps"`
	// For is the peer ID of who asked for it.
	For string `json:"for"`
	// CreditTo is the peer ID of the account or pool that gets the credit for what it does; "": who hosts it.
	CreditTo string `json:"credit_to,omitempty"`
}

// ParsePlacement reads a placement: TooLarge past 16 KiB, else BadInput for what is none.
func ParsePlacement(data []byte) (*Placement, error) {
	const op = "read " + PlacementFile
	if len(data) > maxPlacement {
		return nil, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxPlacement)
	}
	var p Placement
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	bad := func(format string, args ...any) (*Placement, error) {
		return nil, cellproto.Errorf(op, cellproto.BadInput, format, args...)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows it")
	}
	for name, dir := range p.Groups {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
			return bad("the group of %.20q is %.80q, not an absolute path", name, dir)
		}
	}
	switch {
	case !filepath.IsAbs(p.Home):
		return bad("home is %.80q, not an absolute path", p.Home)
	case !(p.CPU > 0 && p.CPU <= 4096), p.Memory <= 0, p.Disk < 0:
		return bad("cpu %v, memory %d, disk %d cannot be", p.CPU, p.Memory, p.Disk)
	case p.For != "" && checkPeer(p.For) != nil:
		return bad("for is %.80q, no peer ID", p.For)
	case p.CreditTo != "" && checkPeer(p.CreditTo) != nil:
		return bad("credit_to is %.80q, no peer ID", p.CreditTo)
	}
	return &p, nil
}

// ReadPlacement reads the placement of the cell in dir; nil, and no error, if it is not hosted. One that
// cannot be read is an error: without it nobody knows what the cell may use.
func ReadPlacement(dir string) (*Placement, error) {
	path := filepath.Join(dir, PlacementFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var data []byte
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxPlacement+1))
	}
	if err != nil {
		return nil, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	return ParsePlacement(data)
}

// Write makes the cell in dir a hosted one. It is done before its nucleus is started for the first time.
func (p *Placement) Write(dir string) error {
	path := filepath.Join(dir, PlacementFile)
	data, err := json.MarshalIndent(p, "", "  ")
	if err == nil {
		err = renameio.WriteFile(path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}
