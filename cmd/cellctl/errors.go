package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

// Exit codes; they are a promise.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitUnavailable = 5 // or timed out, or overloaded
	exitFunction    = 6 // the function itself returned an error
)

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// silentError ends with exitFailed; what is wrong has been printed as a result.
type silentError struct{}

func (silentError) Error() string { return "" }

func exitCode(err error) int {
	var usage usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	switch cellproto.KindOf(err) {
	case 0:
		return exitDone
	case cellproto.NotFound:
		return exitNotFound
	case cellproto.Denied:
		return exitDenied
	case cellproto.Unavailable, cellproto.Timeout, cellproto.Overloaded, cellproto.MayHaveRun:
		return exitUnavailable
	case cellproto.FuncError:
		return exitFunction
	}
	return exitFailed
}

// printError says what failed, on what, and what to try.
func (a *app) printError(err error) {
	if errors.Is(err, silentError{}) {
		return
	}
	hint := hintOf(err)
	if a.json {
		a.printErrorJSON(err, hint)
		return
	}
	fmt.Fprintf(a.errOut, "cellctl: %s\n", safe(err.Error()))
	if hint != "" {
		fmt.Fprintf(a.errOut, "  try: %s\n", safe(hint))
	}
}

// hintOf gives what to try after an error, or "".
func hintOf(err error) string {
	hint := cellproto.HintOf(err)
	if after := cellproto.RetryAfterOf(err); hint == "" && after > 0 {
		hint = fmt.Sprintf("again in %v", after)
	}
	var usage usageError
	if hint == "" && errors.As(err, &usage) {
		hint = "cellctl --help"
	}
	return hint
}

// errorJSON is what a command that fails prints with --json, on stderr; its fields are a promise.
type errorJSON struct {
	Error        string `json:"error"`
	Kind         string `json:"kind"`         // one of the protocol's
	Op           string `json:"op,omitempty"` // what was being done
	Hint         string `json:"hint"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"`
	Exit         int    `json:"exit"`
}

func (a *app) printErrorJSON(err error, hint string) {
	e := errorJSON{
		Error: safe(err.Error()), Kind: kindName(err), Hint: safe(hint),
		RetryAfterMS: cellproto.RetryAfterOf(err).Milliseconds(), Exit: exitCode(err),
	}
	var ours *cellproto.Error
	if errors.As(err, &ours) {
		e.Op = safe(ours.Op)
	}
	if b, jerr := json.Marshal(e); jerr == nil {
		fmt.Fprintf(a.errOut, "%s\n", b)
	}
}

// kindName names the kind of an error; what makes no sense on a command line is bad input.
func kindName(err error) string {
	kind := cellproto.KindOf(err)
	var usage usageError
	if errors.As(err, &usage) && kind == cellproto.Failed {
		kind = cellproto.BadInput
	}
	return kind.String()
}

// safe makes text that may come from elsewhere fit for a terminal.
func safe(s string) string {
	return strings.Map(func(r rune) rune {
		if cellproto.Unprintable(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// badTarget makes a refused argument of a command the caller's mistake.
func badTarget(err error) error {
	if cellproto.KindOf(err) == cellproto.BadInput {
		return usageError{err}
	}
	return err
}

// fromControl gives an error of the control API its kind and a hint. op is used where the nucleus
// did not say what it was doing.
func fromControl(op, dir string, err error) error {
	var remote *ctl.RemoteError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &remote):
		e := cellproto.Errorf(op, cellproto.ParseKind(remote.Kind), "%s", remote.Message)
		if remote.Op != "" {
			e.Op = remote.Op
		}
		e.Hint, e.RetryAfter = remote.Hint, millis(remote.RetryAfterMS)
		return e
	case errors.Is(err, ctl.ErrNotRunning):
		return cellproto.Errorf(op, cellproto.Unavailable, "%w", err).WithHint("cellctl start %s", quoteWord(dir))
	case errors.Is(err, ctl.ErrLost):
		return cellproto.Errorf(op, cellproto.MayHaveRun, "%w", err).WithHint("cellctl logs %s", quoteWord(dir))
	case errors.Is(err, ctl.ErrProtocol):
		return cellproto.Errorf(op, cellproto.Failed, "%w", err).
			WithHint("cellctl restart %s, if celld has been upgraded since it was started", quoteWord(dir))
	case errors.Is(err, context.DeadlineExceeded):
		return cellproto.Errorf(op, cellproto.Timeout, "no answer in time").WithHint("a longer --timeout")
	}
	var ours *cellproto.Error
	if errors.As(err, &ours) {
		return err
	}
	return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
}

// quoteWord gives s as one word of a shell's command line.
func quoteWord(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./=:@,+", r))
	}) < 0
	if s != "" && plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
