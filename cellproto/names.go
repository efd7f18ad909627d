package cellproto

// Protocol IDs of the libp2p streams between nuclei.
const (
	ProtocolCall    = "/cell/call/1"    // frames: few long-lived streams a peer, large bodies on one of their own
	ProtocolAdvert  = "/cell/advert/1"  // a provider's signed word on its own load
	ProtocolFetch   = "/cell/fetch/1"   // an artefact as one verified stream
	ProtocolLedger  = "/cell/ledger/1"  // who has used what: bills and receipts between two hosts, news between neighbours
	ProtocolHost    = "/cell/host/1"    // a cell is offered to a donor, which takes it up or does not
	ProtocolCallers = "/cell/callers/1" // the owner of a cell asks who calls it, and by which schema
)

// ReservedPrefix begins the names of functions that the nucleus or the SDK answers itself; no
// program can declare one.
const ReservedPrefix = "cell."

// Reserved functions.
const (
	FuncSchema = "cell.schema" // no arguments; the reply is the schema's canonical JSON
	FuncToken  = "cell.token"  // arguments: a signed proof or nothing; the reply is a token
	FuncProbe  = "cell.probe"  // no arguments; the reply is a body of MaxProbe bytes, for whoever measures bandwidth
)

// Reserved functions by which a program keeps its state with its nucleus, over the connection that it serves.
// Arguments are a StateArgs, replies a StateReply; a file's bytes are the body.
const (
	FuncKVGet      = "cell.kv.get"
	FuncKVPut      = "cell.kv.put"
	FuncKVDelete   = "cell.kv.delete"
	FuncKVCAS      = "cell.kv.cas" // compare and swap
	FuncKVList     = "cell.kv.list"
	FuncFileRead   = "cell.file.read"
	FuncFileWrite  = "cell.file.write"
	FuncFileRemove = "cell.file.remove"
	FuncFileList   = "cell.file.list"
)

// What a nucleus tells the program that it starts.
const (
	EnvFD      = "CELL_FD"         // number of the inherited socket that carries frames; programs that speak frames only
	EnvHandoff = "CELL_HANDOFF_FD" // number of the inherited socket over which callers' connections are handed over
	EnvDir     = "CELL_DIR"        // absolute path of the cell's directory; also the working directory
	EnvName    = "CELL_NAME"       // the cell's name
)

// What tests, containers and routers tell every celld; each overrides the key of cell.toml.
const (
	EnvHome      = "CELL_HOME"      // directory of the home cell
	EnvNetwork   = "CELL_NETWORK"   // network name
	EnvBootstrap = "CELL_BOOTSTRAP" // comma-separated multiaddrs
	EnvListen    = "CELL_LISTEN"    // comma-separated multiaddrs
	EnvMDNS      = "CELL_MDNS"      // "off" or "on"
	EnvLog       = "CELL_LOG"       // debug, info, warn or error
	EnvProfile   = "CELL_PROFILE"   // "router", or "" for any other machine; no key of cell.toml has it

	// EnvFileRepos is for tests only: "on" has celld clone from file:// too.
	EnvFileRepos = "CELL_FILE_REPOS"
)

// CellID names a published version of a cell: the text form of its manifest's CID.
type CellID string

// PeerID is a libp2p peer in its text form, as in the last part of a multiaddr.
type PeerID string

// SchemaHash is the BLAKE3-256 of a schema's canonical JSON. The zero value means "no schema".
type SchemaHash [32]byte
