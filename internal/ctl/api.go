package ctl

import (
	"encoding/json"
	"net/url"
	"time"
)

// Routes of the control API. Every answer is a stream of lines of JSON, each of which is one Line;
// the last one has a result or an error. Parameters are in the query.
const (
	RouteStatus  = "/v1/status"  // GET; result Status
	RouteMetrics = "/v1/metrics" // GET; result Metrics
	// RoutePrometheus is Metrics as Prometheus reads them: GET; text, version 0.0.4 of that format.
	RoutePrometheus = "/metrics"
	RoutePublish    = "/v1/publish"  // POST force; result Published
	RouteUse        = "/v1/use"      // POST, see UseRequest; result UseMeta, then the reply's bytes
	RouteFind       = "/v1/find"     // GET target, timeout_ms; items FindRow as they come, result Found
	RouteRace       = "/v1/race"     // POST target, timeout_ms; result []RaceRow, best first
	RouteRaces      = "/v1/races"    // GET target, every_ms, timeout_ms; items RaceReport as races end, result null
	RouteHistory    = "/v1/history"  // GET target, timeout_ms; result []HistoryRow, newest first
	RouteSchema     = "/v1/schema"   // GET target, timeout_ms; result is the schema, as in schema.json
	RouteDescribe   = "/v1/describe" // GET target, timeout_ms; result Description
	RouteVersion    = "/v1/version"  // GET target, version (a CID, a number, or "~N"), timeout_ms; result VersionDetail
	RouteDoctor     = "/v1/doctor"   // GET; result []Check
	RouteSwap       = "/v1/swap"     // POST program, force, publish, timeout_ms; result Swapped
	RouteFits       = "/v1/fits"     // POST, the body is a schema as in schema.json; result Fits
	RouteUpgrade    = "/v1/upgrade"  // POST file, cut, timeout_ms; result Upgrading, just before the other celld takes over
	RouteStop       = "/v1/stop"     // POST; result null, before the nucleus begins to stop
	RouteRun        = "/v1/run"      // POST timeout_ms; starts the program; result Status
	// GET; result []MirrorRow. POST target, public, timeout_ms: makes one; result MirrorRow. DELETE target,
	// timeout_ms: removes one; result MirrorRow.
	RouteMirrors = "/v1/mirrors"
	RouteCollect = "/v1/gc" // POST dry, timeout_ms; result []MirrorRow, those that go
	// POST see GiveChange: changes what this machine gives, and turns it on or off; result Giving. Home cell only.
	RouteGive       = "/v1/give"
	RouteGiveStatus = "/v1/give/status" // GET; result Giving
	// GET timeout_ms; result []DepRow. POST name (any number; none: all by git), timeout_ms: looks again, and waits
	// until what is found is used; result []DepRow.
	RouteDeps = "/v1/deps"
)

// What a nucleus tells whoever started it: the number of a descriptor on which it writes one line
// when it is ready or has failed; see WriteReady.
const EnvReadyFD = "CELL_READY_FD"

// Limits of the stream. Past them the stream is broken.
const (
	MaxLine   = 1 << 20 // bytes of a line without its newline
	MaxHeader = 64 << 10
)

// TrailerError is the HTTP trailer that carries an *Error as JSON when a reply's bytes had begun
// to flow before it was known that they would not all come.
const TrailerError = "Cell-Error"

// ContentType of every answer.
const ContentType = "application/x-ndjson"

// Line is one line of an answer. Exactly one field is set.
type Line struct {
	Progress string          `json:"progress,omitempty"` // for people, without control bytes
	Item     json.RawMessage `json:"item,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"` // the last line, and it was done
	Error    *RemoteError    `json:"error,omitempty"`  // the last line, and it failed
}

// RemoteError is a failure that the nucleus reports. Kind is the text form of an error kind of
// cellproto.
type RemoteError struct {
	Op           string `json:"op"`
	Kind         string `json:"kind"`
	Message      string `json:"message"`
	Hint         string `json:"hint,omitempty"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
}

// Error gives "op: message".
func (e *RemoteError) Error() string {
	if e.Op == "" {
		return e.Message
	}
	return e.Op + ": " + e.Message
}

// States of a cell.
const (
	Running = "running" // the program runs
	Frozen  = "frozen"  // it is stopped in place and continues with the next call
	Idle    = "idle"    // the nucleus waits; the program starts with the next call
	Stopped = "stopped" // there is no nucleus
)

// Status is a cell and its nucleus.
type Status struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	State       string   `json:"state"`
	NucleusPID  int      `json:"nucleus_pid"`
	ProgramPID  int      `json:"program_pid"`
	PeerID      string   `json:"peer_id"`
	Addrs       []string `json:"addrs"` // multiaddrs that end in /p2p/<peer>
	CID         string   `json:"cid"`   // of the manifest published last
	Network     string   `json:"network"`
	InFlight    int      `json:"in_flight"`
	Served      int64    `json:"served"` // calls answered since the nucleus started
	SandboxTier string   `json:"sandbox_tier"`
	Profile     string   `json:"profile,omitempty"` // "router"
	IPNS        string   `json:"ipns,omitempty"`
	Dir         string   `json:"dir"`

	// Of celld, which can be another one than that which the nucleus was started with; see Upgrade.
	Celld        string         `json:"celld"`         // its version
	CelldStarted time.Time      `json:"celld_started"` // when it took over, or the nucleus started
	Upgrade      *UpgradeStatus `json:"upgrade,omitempty"`

	// Of the program, since the nucleus started.
	Starts    uint64 `json:"starts"`
	Crashes   uint64 `json:"crashes"`              // runs that ended by themselves
	LastExit  string `json:"last_exit,omitempty"`  // how the last run ended
	LastError string `json:"last_error,omitempty"` // why it does not run, if something is wrong with it
	LastHint  string `json:"last_hint,omitempty"`
	Ledger    string `json:"ledger_error,omitempty"` // why what is given and taken is not written down
	// LedgerDamage says what of the ledger's files was not as it had been written when the nucleus started.
	LedgerDamage string `json:"ledger_damage,omitempty"`
	// LedgerEntries says what became of entries that peers have sent, by kind: stored, stale, forged, flooding, ...
	LedgerEntries map[string]uint64 `json:"ledger_entries,omitempty"`
	LogCut        uint64            `json:"log_cut,omitempty"`      // bytes that it printed past 64 KiB/s
	BadLines      uint64            `json:"bad_lines,omitempty"`    // of a jsonl program that answered nothing
	Swap          *SwapStatus       `json:"swap,omitempty"`         // the last one
	Placements    []Placement       `json:"placements,omitempty"`   // cells of which a copy near by is wanted, the newest first
	Objectives    []string          `json:"objectives,omitempty"`   // what is wrong with the files in which it says what it wants of others
	SchemasInUse  []SchemaUse       `json:"schemas_in_use"`         // the last used first
	Dependencies  []DependencyCheck `json:"dependencies,omitempty"` // the cells in cell.lock
	Patch         []Patch           `json:"patch,omitempty"`        // in the order in which they are applied, by name
}

// What has become of a cell that this one was made for.
const (
	DependencySame       = "same"
	DependencyCompatible = "compatible"
	DependencyBreaking   = "breaking"
	DependencyUnknown    = "unknown" // it was not called yet, or does not answer
)

// DependencyCheck is one cell of cell.lock, as it was when it said last which schema it has.
type DependencyCheck struct {
	Target  string    `json:"target"`
	Cell    string    `json:"cell"`
	State   string    `json:"state"`
	Locked  string    `json:"locked"`         // hash of the schema that this cell was made for
	Live    string    `json:"live,omitempty"` // and of the one that it has
	Changes []string  `json:"changes"`
	Checked time.Time `json:"checked"`
	Error   string    `json:"error,omitempty"`
}

// SchemaUse is one schema by which the cell is called.
type SchemaUse struct {
	Schema  string         `json:"schema"`           // hash, hex
	Served  bool           `json:"served,omitempty"` // it is that of the program
	Known   bool           `json:"known"`            // the cell has or had it
	Count   int            `json:"count"`            // of callers
	Callers []SchemaCaller `json:"callers"`          // the last to call first
}

// SchemaCaller is one caller.
type SchemaCaller struct {
	Who      string    `json:"who"`  // peer ID, or on this machine "uid:N", with the peer ID of a calling nucleus
	Says     bool      `json:"says"` // that it was made for this schema; else it is the one that it found
	LastCall time.Time `json:"last_call,omitzero"`

	SaidBy string `json:"said_by,omitempty"` // peer ID of who says so; "": this nucleus has seen it
	More   int    `json:"more,omitempty"`    // of somebody's word: callers who are not named, and who is ""
}

// Guard says whose calls hold a change up that would break them.
type Guard struct {
	Force bool // nobody's
	Seen  bool // those alone of whom the nucleus knows by itself; nobody else is asked
}

func (g Guard) set(q url.Values) {
	if g.Force {
		q.Set("force", "1")
	}
	if g.Seen {
		q.Set("seen", "1")
	}
}

// ParseGuard reads it in a request.
func ParseGuard(q url.Values) Guard { return Guard{Force: q.Has("force"), Seen: q.Has("seen")} }

// Broken is a schema whose callers a change breaks.
type Broken struct {
	Schema  string         `json:"schema"`
	Changes []string       `json:"changes"`
	Callers []SchemaCaller `json:"callers"`        // some of them
	More    int            `json:"more,omitempty"` // callers besides
}

// Fits says what it would mean to the callers if a program with another schema took over.
type Fits struct {
	From    string       `json:"from"` // the version that runs
	To      string       `json:"to"`   // the one in cell.toml
	Rises   bool         `json:"rises,omitempty"`
	Broken  []Broken     `json:"broken,omitempty"`
	Notes   []string     `json:"notes,omitempty"`   // what is no reason to refuse it
	Refused *RemoteError `json:"refused,omitempty"` // nil: it could
}

// SwapStatus says how far the last swap has come.
type SwapStatus struct {
	State  string    `json:"state"` // waiting, starting, trial, swapped, refused or rolled back
	Reason string    `json:"reason,omitempty"`
	Hint   string    `json:"hint,omitempty"`
	Since  time.Time `json:"since"`
}

// UpgradeStatus says what became of the last attempt to replace celld that came as far as handing over.
type UpgradeStatus struct {
	From  string    `json:"from"`            // the version before
	At    time.Time `json:"at"`              // when it was over
	Error string    `json:"error,omitempty"` // why the one before goes on
}

// Upgrading says that another celld is about to take over. Who asks for the status next is answered by
// it, or else by the one before, which goes on.
type Upgrading struct {
	File    string    `json:"file"`
	From    string    `json:"from"`    // the version that runs
	To      string    `json:"to"`      // the version of File
	Started time.Time `json:"started"` // CelldStarted of the one that runs
}

// Swapped is a program that has taken over. It is on trial for 5 s; status tells how that ends.
type Swapped struct {
	ProgramPID int      `json:"program_pid"`
	Version    string   `json:"version"`
	BLAKE3     string   `json:"blake3"`            // of the program, hex
	Schema     string   `json:"schema"`            // hash, hex; "" without one
	Changes    []string `json:"changes,omitempty"` // that break callers, or would if there were any
	Notes      []string `json:"notes,omitempty"`   // what was no reason to refuse it
	Broken     []Broken `json:"broken,omitempty"`  // schemas whose callers are broken, as was wanted
	CID        string   `json:"cid,omitempty"`     // that it is served under
	IPNS       string   `json:"ipns,omitempty"`    // of a publish
	TookMS     int64    `json:"took_ms"`
}

// What became of a patch.
const (
	PatchApplied    = "applied"     // the program is its result, or that of a later one
	PatchRefused    = "refused"     // it changed nothing
	PatchRolledBack = "rolled_back" // its result did not run, and the program before it was put back
	PatchWaiting    = "waiting"     // nobody has looked at it; of patch ls only
)

// Patch is a file in the cell's directory patch/.
type Patch struct {
	File   string `json:"file"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"` // why it was not applied, or what stands in the way of rolling it back
}

// Metrics is what a cell does and costs at the moment. What counts since the nucleus started only
// rises: a rate is the difference of two answers over that of their TimeMS.
type Metrics struct {
	Name      string  `json:"name"`
	Version   string  `json:"version"`
	State     string  `json:"state"`
	Dir       string  `json:"dir"`
	TimeMS    int64   `json:"time_ms"`    // since the nucleus started
	Served    int64   `json:"served"`     // calls answered
	InFlight  int     `json:"in_flight"`  // calls
	Waiting   int     `json:"waiting"`    // of these, for the program to start
	Refused   uint64  `json:"refused"`    // calls that were one too many for the program
	P50US     int64   `json:"p50_us"`     // of the last one to two thousand calls; 0: none yet
	P99US     int64   `json:"p99_us"`     //
	Nucleus   Process `json:"nucleus"`    //
	Program   Process `json:"program"`    // zero: it does not run
	Starts    uint64  `json:"starts"`     // of the program, tried
	Crashes   uint64  `json:"crashes"`    // of the program
	LastError string  `json:"last_error"` // why the program does not run; ""
	// Ledger is what the ledger has counted; nil where there is none.
	Ledger *LedgerMetrics `json:"ledger,omitempty"`
}

// LedgerMetrics counts since the nucleus started.
type LedgerMetrics struct {
	Taken           uint64            `json:"taken"`            // entries of peers that were new
	Regained        uint64            `json:"regained"`         // of these, those that this host had signed and had lost
	Refused         map[string]uint64 `json:"refused"`          // what peers have sent and was not taken, by kind
	Signed          uint64            `json:"receipts_signed"`  // by this host, for what it has used
	Paid            uint64            `json:"receipts_got"`     // signed by callers, for what this host has done
	BillsRefused    uint64            `json:"bills_refused"`    // by this host
	BillsUnsigned   uint64            `json:"bills_unsigned"`   // by callers
	SegmentsDamaged uint64            `json:"segments_damaged"` // of its files, in which bytes had changed
	SegmentsHealed  uint64            `json:"segments_healed"`  // of these, put aside: what was good is written anew
	RecordsDropped  uint64            `json:"records_dropped"`  // while the disk took nothing, and there were too many
	GossipIn        uint64            `json:"gossip_bytes_in"`
	GossipOut       uint64            `json:"gossip_bytes_out"`
	DiskFails       bool              `json:"disk_fails"` // it is kept in memory
}

// Process is what a process has used; zero where the system does not tell.
type Process struct {
	PID   int   `json:"pid"`
	CPUMS int64 `json:"cpu_ms"` // user and system time of all its threads
	RSS   int64 `json:"rss"`    // bytes
	// Received and Sent are bytes that went to a program and came from it, in this run; of the nucleus they are zero.
	Received int64 `json:"received_bytes,omitempty"`
	Sent     int64 `json:"sent_bytes,omitempty"`
}

// Published is a manifest that others can find now.
type Published struct {
	CID     string `json:"cid"`
	Name    string `json:"name"`
	Version string `json:"version"`
	IPNS    string `json:"ipns"`
	Note    string `json:"note,omitempty"` // for people: what was no reason to refuse it
}

// FindRow is one provider.
type FindRow struct {
	Peer   string   `json:"peer"`
	Addrs  []string `json:"addrs"`
	Source string   `json:"source"` // local, dht, mdns, static or mirror
}

// Found ends the rows of a search.
type Found struct {
	Count int `json:"count"`
}

// RaceRow is one candidate of a race. One that did not finish has an error and no score.
type RaceRow struct {
	Peer     string `json:"peer"`
	MedianUS int64  `json:"median_us"` // of three pings
	P99US    int64  `json:"p99_us"`
	Queue    int    `json:"queue"`
	ScoreUS  int64  `json:"score_us"`
	Winner   bool   `json:"winner"`
	Error    string `json:"error,omitempty"`
}

// RaceReport is a race that has ended.
type RaceReport struct {
	Time   time.Time `json:"time"`
	Why    string    `json:"why"` // it was held
	TookUS int64     `json:"took_us"`
	Seen   int       `json:"seen"`   // candidates
	Winner string    `json:"winner"` // peer; "" if there was none
	Rows   []RaceRow `json:"rows"`   // best first
}

// HistoryRow is one published version.
type HistoryRow struct {
	CID     string    `json:"cid"`
	Version string    `json:"version"`
	Created time.Time `json:"created"`
	Schema  string    `json:"schema"`         // hash of the schema, in hex
	Owner   string    `json:"owner"`          // peer ID of the account that signed it
	Note    string    `json:"note,omitempty"` // of the last one: why the version before it is not listed
}

// VersionDetail is one published version with all that it says.
type VersionDetail struct {
	HistoryRow
	Manifest json.RawMessage `json:"manifest"`
	Full     json.RawMessage `json:"full_schema,omitempty"`
}

// Description is what a target is now.
type Description struct {
	CID     string          `json:"cid,omitempty"`     // of the manifest; "": what is there now is not published
	Version string          `json:"version,omitempty"` // of the manifest
	Schema  json.RawMessage `json:"schema"`
}

// Unfinished is the state of what is left of a mirror that was not made, or of the fetch of its program; of such a row
// only Dir, the path, is known.
const Unfinished = "unfinished"

// MirrorRow is one mirror on this machine.
type MirrorRow struct {
	CID         string    `json:"cid"`
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	Dir         string    `json:"dir"`
	State       string    `json:"state"`  // as in Status
	Source      string    `json:"source"` // artefact, or what it was built from
	LastUsed    time.Time `json:"last_used"`
	Public      bool      `json:"public"`                 // it is announced
	Hosted      bool      `json:"hosted,omitempty"`       // for others
	AskedBy     string    `json:"asked_by,omitempty"`     // peer ID of who asked for it, if it is hosted
	Made        bool      `json:"made,omitempty"`         // by this very request
	SandboxTier string    `json:"sandbox_tier,omitempty"` // of one that was just started
}

// What an entry of [deps] is.
const (
	DepDirectory = "directory"
	DepGit       = "git"
	DepPublished = "published" // a CID, or a name of one
)

// DepRow is an entry of [deps], and what it stands for.
type DepRow struct {
	Name   string     `json:"name"`
	Kind   string     `json:"kind"`
	Target string     `json:"target"`           // as cell.toml has it
	Dir    string     `json:"dir,omitempty"`    // where it is on this machine, if it is
	CID    string     `json:"cid,omitempty"`    // of what is published
	Commit string     `json:"commit,omitempty"` // of a repository
	Moves  bool       `json:"moves,omitempty"`  // the reference is a branch, which is looked at again
	Looked *time.Time `json:"looked,omitempty"` // when the repository was asked last
	State  string     `json:"state,omitempty"`  // as in Status, if there is a directory
	Step   string     `json:"step,omitempty"`   // what is being done just now
	Error  string     `json:"error,omitempty"`
	Hint   string     `json:"hint,omitempty"`
}

// Check is one finding of the doctor.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	Fix    string `json:"fix"` // the command or the edit that mends it; "" when OK
}
