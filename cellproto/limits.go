package cellproto

import "time"

// Limits on what a stranger may send. Each is checked before anything is allocated for the input;
// past it the error is of kind TooLarge, unless the line says otherwise.
const (
	MaxFrame      = 1 << 20   // bytes of a frame after its 12-byte header; each type has a lower limit of its own
	MaxHeader     = 8 << 10   // bytes of a frame's CBOR header map
	MaxArgs       = 256 << 10 // bytes of arguments, and of a reply, in one frame; what is larger travels as a body
	MaxArgsDepth  = 32        // nesting of JSON arguments
	MaxArgsKeys   = 1000      // keys in all objects of JSON arguments together
	ChunkSize     = 64 << 10  // bytes of a chunk of a body; larger raw payloads become bodies
	InitialWindow = 256 << 10 // bytes of a body's chunk frames, fixed headers included, that may be sent before the first credit
	MaxWindow     = 4 << 20   // bytes of credit that may be outstanding for one body
	MaxQueued     = 16 << 20  // bytes besides bodies that wait in one connection's writer; past it the peer is not reading and is cut off
	MaxUnread     = 256 << 10 // bytes besides bodies that wait for a peer; past it a nucleus reads no further requests of a caller that is not the owner
	MaxErrorText  = 4 << 10   // bytes of an error's message on the wire; cut, not refused
	MaxFuncName   = 128       // bytes of a function's name
	MaxFunctions  = 1024      // functions of one cell
	MaxSchema     = 256 << 10 // bytes of schema.json

	MaxStreamsPeer = 64  // calls in flight from one peer; past it Overloaded
	MaxStreams     = 512 // calls in flight in one nucleus; past it Overloaded
	MaxWaiting     = 64  // requests that wait for a sleeping program; past it Overloaded

	MaxCellToml        = 64 << 10
	MaxAdvert          = 4 << 10
	MaxAdvertAddrs     = 16
	MaxAdvertLifetime  = time.Hour
	MaxClockSkew       = 5 * time.Minute
	MaxProviders       = 64 // provider records read in one lookup; the rest is not read
	MaxProbed          = 8  // providers that take part in one race
	MaxManifest        = 64 << 10
	MaxManifestEntries = 256 // list entries in a manifest, all lists together
	MaxToken           = 1 << 10
	MaxQuestion        = 2 << 10   // bytes of an owner's question who calls a cell
	MaxProbe           = 1 << 20   // bytes of the body that cell.probe replies with
	MaxPatchHeader     = 1 << 10   // bytes of the signed header of a patch
	MaxPatchDelta      = 64 << 20  // bytes of the delta in a patch
	MaxPatchProgram    = 256 << 20 // bytes of a program before and after a patch
	MaxLedgerEntry     = 1 << 10   // bytes of a receipt, cheque or key-log entry, signatures included
	MaxPatches         = 64        // patches in one cell's directory; the rest, by name, is refused

	MaxStateKey    = 512       // bytes of a key that a program keeps with its nucleus
	MaxStateValue  = 64 << 10  // bytes of its value; what is larger is a file
	MaxStateName   = 128       // bytes of a file's name
	MaxStateFiles  = 4096      // files of one cell
	MaxStatePage   = 1000      // keys or files in one reply
	MaxStateCalls  = 64        // calls of one program for its state at a time; past it Overloaded
	MaxStateBodies = 8         // of which so many move files
	StateRate      = 5_000_000 // bytes a second that a program writes and reads of its state; past it calls wait

	FrameTimeout = 10 * time.Second // to deliver the rest of a frame once its first byte is here
	IdleTimeout  = 60 * time.Second // without a call in flight on a remote connection
	StallTimeout = 30 * time.Second // without one byte taken by a peer that has bytes to take
	DrainTimeout = 30 * time.Second // for calls in flight after a goaway

	TokenTTL       = 10 * time.Minute
	AdvertLifetime = 15 * time.Second
	AdvertRefresh  = 5 * time.Second
	DefaultTimeout = 10 * time.Second // of a whole call, when the caller gives no deadline
)
