package race

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	maxPeerID     = 128 // bytes; a libp2p peer ID in text is about 52
	maxWinnerJSON = 4 << 10
	maxStateJSON  = 8 << 20 // MaxPeers records with full histograms are about half of that

	// LogEntries is how many races race.log keeps.
	LogEntries    = 100
	maxLogLine    = 32 << 10
	maxLogRunners = 32
)

type reputationJSON struct {
	Version int       `json:"version"`
	Peers   []*record `json:"peers"` // the least recently used first
}

// MarshalJSON gives the whole state; the same state gives the same bytes.
func (r *Reputation) MarshalJSON() ([]byte, error) {
	return json.Marshal(reputationJSON{Version: 1, Peers: r.byUse()})
}

// UnmarshalJSON replaces the state. Anything that MarshalJSON cannot have written is an error of
// kind Corrupt and leaves r without any peers, ready for use: a damaged file costs the memory, never
// the call.
func (r *Reputation) UnmarshalJSON(data []byte) error {
	*r = *NewReputation()
	const op = "read reputation"
	if len(data) > maxStateJSON {
		return cellproto.Errorf(op, cellproto.Corrupt, "%d bytes are more than it can have", len(data))
	}
	var in reputationJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return cellproto.Errorf(op, cellproto.Corrupt, "%w", err)
	}
	if in.Version != 1 || len(in.Peers) > MaxPeers {
		return cellproto.Errorf(op, cellproto.Corrupt, "version %d with %d peers", in.Version, len(in.Peers))
	}
	n := NewReputation()
	for _, rec := range in.Peers {
		if rec == nil || !rec.valid() || n.peers[rec.Peer] != nil {
			return cellproto.Errorf(op, cellproto.Corrupt, "a peer is twice there or has impossible values")
		}
		n.clock++
		rec.used = n.clock
		n.peers[rec.Peer] = rec
	}
	*r = *n
	return nil
}

func (rec *record) valid() bool {
	within := func(v, most int) bool { return v >= 0 && v <= most }
	return rec.Peer != "" && len(rec.Peer) <= maxPeerID &&
		within(rec.Failures, weightMost) && within(rec.Wrong, wrongMost) && within(rec.Bans, maxBans) && within(rec.Trials, maxTrials) &&
		rec.BanUntil.Sub(rec.BanFrom) <= MaxBan && (rec.Latency == nil || !rec.Aged.IsZero())
}

// Log is a finished race as race.log keeps it, one JSON object a line.
type Log struct {
	Time       time.Time        `json:"time"`
	Cell       cellproto.CellID `json:"cell"`
	Why        Reason           `json:"why,omitempty"`
	Took       Micros           `json:"took_us"`
	Seen       int              `json:"seen"`
	Candidates []Ranked         `json:"candidates"`
	Winner     cellproto.PeerID `json:"winner"` // "" if there was none
}

// Log gives the entry for this decision.
func (d *Decision) Log(cell cellproto.CellID, why Reason) Log {
	return Log{
		Time: d.At.UTC().Round(time.Millisecond), Cell: cell, Why: why, Took: MicrosOf(d.Took), Seen: d.Seen,
		Candidates: d.Ranking[:min(len(d.Ranking), maxLogRunners)], Winner: d.Winner,
	}
}

// AppendLog gives the content of race.log with one more entry: the last LogEntries lines that are
// whole. A line that was cut off by a crash is dropped.
func AppendLog(old []byte, e Log) ([]byte, error) {
	line, err := json.Marshal(e)
	if err != nil {
		return nil, cellproto.Errorf("write race.log", cellproto.Failed, "%w", err)
	}
	lines := append(wholeLines(old), line)
	return append(bytes.Join(lines[max(len(lines)-LogEntries, 0):], []byte("\n")), '\n'), nil
}

// ParseLog reads race.log, the oldest entry first. Lines that are no entries are left out.
func ParseLog(data []byte) []Log {
	var out []Log
	for _, l := range wholeLines(data) {
		var e Log
		if json.Unmarshal(l, &e) == nil {
			out = append(out, e)
		}
	}
	return out[max(len(out)-LogEntries, 0):]
}

func wholeLines(data []byte) [][]byte {
	lines := bytes.Split(data, []byte("\n"))
	return slices.DeleteFunc(lines, func(l []byte) bool { return len(l) == 0 || len(l) > maxLogLine || !json.Valid(l) })
}
