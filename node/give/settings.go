// Package give decides what this machine can spare for strangers' cells, and when. It owns the owner's
// settings, the looking (Sensors), the decision (Decide, a pure function), and the Giver that drives them.
// It hosts nothing itself: what is hosted is behind Hosted, what holds the caps behind Limiter.
package give

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/celldnet/celld/cellproto"
)

// SettingsFile is where the settings are, below the home cell's directory.
const SettingsFile = "data/give.json"

// Defaults and bounds of Settings.
const (
	DefaultPercent = 10  // of the processors, and of the memory
	DefaultDisk    = 5e6 // bytes a second
	DefaultHosts   = 4   // cells at once
	DefaultBusy    = 70  // percent
	MaxHosts       = 64
	minPercent     = 0.1
	minDisk        = 1 << 10 // bytes a second
	maxDisk        = 1 << 40
	maxList        = 256     // entries of Allow, of Deny
	maxSettings    = 1 << 20 // bytes of the file
)

// Settings are what the owner of this machine wants. They outlive the nucleus.
type Settings struct {
	On bool `json:"on"`
	// CPU and RAM are percent of the whole machine, Disk bytes a second, for all hosted cells together.
	CPU  float64 `json:"cpu_percent"`
	RAM  float64 `json:"ram_percent"`
	Disk int64   `json:"disk_bps"`
	// Max gives all that nobody else uses, while the owner is away; CPU, RAM and Disk do not count then.
	Max bool `json:"max,omitempty"`
	// Busy is how much, in percent, others may use of the processors, and of a disk's time, before it pauses.
	Busy float64 `json:"busy_percent"`
	// Until ends the giving; zero: nothing does.
	Until time.Time `json:"until,omitzero"`
	// Schedule says when in the week; empty: always.
	Schedule Schedule `json:"schedule,omitzero"`
	Policy   Policy   `json:"policy"`
}

// Policy says what is taken up, and for whom.
type Policy struct {
	Allow           []string `json:"allow,omitempty"` // peer IDs of publishers; empty: every publisher
	Deny            []string `json:"deny,omitempty"`  // CIDs of manifests, and peer IDs of publishers, that are never taken up
	GPU             bool     `json:"gpu,omitempty"`   // cells that want one; it is kept, and none is taken up: see admit
	Hosts           int      `json:"hosts"`           // cells at once
	BuildFromSource bool     `json:"build_from_source,omitempty"`
	CreditTo        string   `json:"credit_to,omitempty"` // peer ID of the account that is credited; "": the owner's
}

// Defaults are the settings of who has set nothing: off.
func Defaults() Settings {
	return Settings{CPU: DefaultPercent, RAM: DefaultPercent, Disk: DefaultDisk, Busy: DefaultBusy, Policy: Policy{Hosts: DefaultHosts}}
}

// Validate reports the first setting that is out of bounds, with kind BadInput.
func (s *Settings) Validate() error {
	bad := func(hint, format string, args ...any) error {
		return cellproto.Errorf("check what to give", cellproto.BadInput, format, args...).WithHint("%s", hint)
	}
	switch p := s.Policy; {
	case !(s.CPU >= minPercent && s.CPU <= 100):
		return bad("--cpu 10%", "%v %% of the processors is not between 0.1 and 100", s.CPU)
	case !(s.RAM >= minPercent && s.RAM <= 100):
		return bad("--ram 10%", "%v %% of the memory is not between 0.1 and 100", s.RAM)
	case s.Disk < minDisk || s.Disk > maxDisk:
		return bad("--disk 5MB/s", "%d bytes a second is not between 1 KiB/s and 1 TiB/s", s.Disk)
	case !(s.Busy >= minPercent && s.Busy <= 100):
		return bad("--busy 70%", "%v %% is not between 0.1 and 100", s.Busy)
	case p.Hosts < 1 || p.Hosts > MaxHosts:
		return bad("--hosts 4", "%d cells at once is not between 1 and %d", p.Hosts, MaxHosts)
	case len(p.Allow) > maxList || len(p.Deny) > maxList:
		return bad("Fewer of them.", "more than %d publishers or cells are named", maxList)
	}
	for _, id := range slices.Concat(s.Policy.Allow, []string{s.Policy.CreditTo}) {
		if err := checkPeer(id); err != nil && id != "" {
			return bad("A publisher is a peer ID, such as 12D3KooW...; cellctl history CID shows that of a cell.", "%.80q is no peer ID: %w", id, err)
		}
	}
	if slices.Contains(s.Policy.Allow, "") {
		return bad("A publisher is a peer ID, such as 12D3KooW...", "a publisher without a name is allowed")
	}
	for _, text := range s.Policy.Deny {
		if isPublisher(text) {
			continue
		}
		if id, err := cid.Decode(text); err != nil || id.Type() != cid.DagCBOR || id.String() != text {
			return bad("A cell is denied by its CID, as cellctl publish prints it; a publisher by a peer ID.", "%.80q is neither the CID of a manifest nor a peer ID", text)
		}
	}
	return nil
}

// Wants says whether the owner wants a cell hosted, of a CID and by a publisher's peer ID.
func (p *Policy) Wants(cid, publisher string) bool {
	return !slices.Contains(p.Deny, cid) && !slices.Contains(p.Deny, publisher) && (len(p.Allow) == 0 || slices.Contains(p.Allow, publisher))
}

// isPublisher says whether a text is the peer ID of an account, which has its key in it: a hash alone may be a CID's.
func isPublisher(text string) bool {
	id, err := peer.Decode(text)
	if err != nil || id.String() != text {
		return false
	}
	_, err = id.ExtractPublicKey()
	return err == nil
}

func checkPeer(text string) error {
	id, err := peer.Decode(text)
	if err == nil && id.String() != text {
		err = errors.New("it is not in the usual form")
	}
	return err
}

// ParseSettings reads settings: TooLarge past 1 MiB, else BadInput for what is none. It is strict: what
// is not understood may be something that the owner does not want done.
func ParseSettings(data []byte) (Settings, error) {
	const op = "read " + SettingsFile
	if len(data) > maxSettings {
		return Settings{}, cellproto.Errorf(op, cellproto.TooLarge, "%d bytes, at most %d", len(data), maxSettings)
	}
	s := Defaults()
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return Settings{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Settings{}, cellproto.Errorf(op, cellproto.BadInput, "something follows the settings")
	}
	if err := s.Validate(); err != nil {
		return Settings{}, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	return s, nil
}

// LoadSettings reads the settings of the home cell in dir; without a file they are the defaults.
func LoadSettings(dir string) (Settings, error) {
	path := filepath.Join(dir, SettingsFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Defaults(), nil
	}
	var data []byte
	if err == nil {
		defer f.Close()
		data, err = io.ReadAll(io.LimitReader(f, maxSettings+1))
	}
	if err != nil {
		return Settings{}, cellproto.Errorf("read "+path, cellproto.KindOf(err), "%w", err)
	}
	return ParseSettings(data)
}

// save replaces the settings of the home cell in dir.
func (s *Settings) save(dir string) error {
	path := filepath.Join(dir, SettingsFile)
	data, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	if err == nil {
		err = renameio.WriteFile(path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return cellproto.Errorf("write "+path, cellproto.KindOf(err), "%w", err)
	}
	return nil
}
