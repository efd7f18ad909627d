package cellproto

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Kind says what sort of failure an error is. It survives the wire: a provider's kind is the kind
// that its caller sees. The numbers are part of the protocol and are never reused.
type Kind uint8

// The kinds of error.
const (
	Failed       Kind = 1  // something broke that has no better name; a bug or a full disk
	BadInput     Kind = 2  // the arguments, the frame or the file are malformed; trying again cannot help
	NotFound     Kind = 3  // no such cell, function, name or block
	Denied       Kind = 4  // the caller has not proven what the cell asks for
	Overloaded   Kind = 5  // no room now; try again after Error.RetryAfter. The request did not run
	Unavailable  Kind = 6  // nobody could be reached. The request provably did not run
	Timeout      Kind = 7  // the deadline passed; the request may have run
	Canceled     Kind = 8  // the caller gave up
	MayHaveRun   Kind = 9  // the connection was lost after the request left; it may have run
	FuncError    Kind = 10 // the function itself returned an error: it ran
	TooLarge     Kind = 11 // past one of the limits in limits.go
	Unsupported  Kind = 12 // a version, codec or feature that this side does not have
	Corrupt      Kind = 13 // a signature or a hash does not match
	Incompatible Kind = 14 // the schema is not one that the caller accepts
	BadReply     Kind = 15 // it ran, and what came back is not what its schema promises
)

var kindNames = [...]string{
	Failed: "failed", BadInput: "bad input", NotFound: "not found", Denied: "denied",
	Overloaded: "overloaded", Unavailable: "unavailable", Timeout: "timed out",
	Canceled: "canceled", MayHaveRun: "may have run", FuncError: "function error",
	TooLarge: "too large", Unsupported: "unsupported", Corrupt: "corrupt",
	Incompatible: "incompatible", BadReply: "bad reply",
}

// String gives the kind in words, as the CLI prints it and as JSON carries it.
func (k Kind) String() string {
	if int(k) < len(kindNames) && kindNames[k] != "" {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// ParseKind is the inverse of String; unknown names give Failed.
func ParseKind(s string) Kind {
	for k, name := range kindNames {
		if name == s && name != "" {
			return Kind(k)
		}
	}
	return Failed
}

// NeverRan reports that a request that ended with this kind did not reach its function, so that
// it may be sent again, anywhere, whatever the function is.
func (k Kind) NeverRan() bool {
	switch k {
	case BadInput, NotFound, Denied, Overloaded, Unavailable, TooLarge, Unsupported, Incompatible:
		return true
	}
	return false
}

// Error is what every package of celld returns: what was being done, what sort of failure it is,
// and why.
type Error struct {
	Op         string        // what was being done, on what: "parse cell.toml line 4"
	Kind       Kind          // never 0 in an error made by this package
	Err        error         // the cause; not nil
	Hint       string        // what a person can try next, a whole sentence, or ""
	RetryAfter time.Duration // with Overloaded: how long to wait; else 0
	Again      bool          // of a call that a program makes of another cell: see MetaAgain
}

// MetaAgain is the key of an error's meta by which a nucleus tells a program that a call of it may be made again, and is not
// only because too much of its body was read: who can send that anew may make it, with the same key.
const MetaAgain = "again"

// Errorf makes an *Error; format and args are as in fmt.Errorf, %w included.
func Errorf(op string, kind Kind, format string, args ...any) *Error {
	return &Error{Op: op, Kind: kind, Err: fmt.Errorf(format, args...)}
}

// WithHint returns e with the hint set: what failed is of no use to a person who is not told what
// to try next.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Error gives "op: cause". The kind is left out: it says how to act, not what happened.
func (e *Error) Error() string {
	cause := e.Kind.String()
	if e.Err != nil {
		cause = e.Err.Error()
	}
	if e.Op == "" {
		return cause
	}
	return e.Op + ": " + cause
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf gives the kind of the outermost *Error in err's chain; a context's or an I/O deadline's
// error is Timeout or Canceled; os.ErrNotExist is NotFound; everything else is Failed, and nil is 0.
func KindOf(err error) Kind {
	if err == nil {
		return 0
	}
	return kindOf(err)
}

// kindOf is apart from KindOf so that nothing is allocated for no error.
func kindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) && e.Kind != 0 {
		return e.Kind
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, os.ErrNotExist):
		return NotFound
	case errors.Is(err, os.ErrPermission):
		return Denied
	}
	return Failed
}

// HintOf gives the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// RetryAfterOf gives how long an overloaded peer asked to wait, or 0.
func RetryAfterOf(err error) time.Duration {
	if err == nil {
		return 0
	}
	return retryAfterOf(err)
}

// retryAfterOf is apart as kindOf is.
func retryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}
