package program

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/celldnet/celld/cellproto"
)

// maxJSONLine bounds a line of a jsonl program each way, in bytes without the newline.
const maxJSONLine = 1 << 20

const hintAnswer = `An answer is one line: {"id":1,"reply":...} or {"id":1,"error":"text"}, with the id of the request.`

// answer is what a jsonl program says to one request, or a call of its own.
type answer struct {
	ID    uint64
	Reply []byte // JSON; nil with an error
	Error string
	Fails bool   // the function returned Error
	Call  string // it is no answer: the program calls this function of its nucleus. ID is the program's own
	Args  []byte // of Call, JSON
}

// appendCalled appends the line that answers a program's own call: with a reply, JSON without a newline, or
// an error.
func appendCalled(dst []byte, id uint64, reply []byte, err error) []byte {
	dst = strconv.AppendUint(append(dst, `{"answer":`...), id, 10)
	if err == nil {
		return append(append(append(dst, `,"reply":`...), reply...), "}\n"...)
	}
	text, merr := json.Marshal(err.Error())
	if merr != nil {
		text = []byte(`"it failed"`)
	}
	dst = append(append(dst, `,"error":`...), text...)
	return append(append(append(dst, `,"kind":"`...), cellproto.KindOf(err).String()...), "\"}\n"...)
}

// appendRequest appends the line that asks a jsonl program to run fn, as the older version whose schema has the hash as,
// "" for the newest. args is JSON that CheckJSON has accepted, or empty for none.
func appendRequest(dst []byte, id uint64, fn, as string, args []byte) ([]byte, error) {
	name, err := json.Marshal(fn)
	if err != nil {
		return dst, cellproto.Errorf("call "+fn, cellproto.BadInput, "%w", err)
	}
	dst = strconv.AppendUint(append(dst, `{"id":`...), id, 10)
	dst = append(append(dst, `,"fn":`...), name...)
	if as != "" { // the nucleus has made it: it needs no quoting
		dst = append(append(append(dst, `,"schema":"`...), as...), '"')
	}
	dst = append(dst, `,"args":`...)
	if len(args) == 0 {
		dst = append(dst, "{}"...)
	} else {
		buf := bytes.NewBuffer(dst)
		if err := json.Compact(buf, args); err != nil { // a newline would end the line
			return dst, cellproto.Errorf("call "+fn, cellproto.BadInput, "%w", err)
		}
		dst = buf.Bytes()
	}
	return append(dst, "}\n"...), nil
}

// parseAnswer reads one line of a jsonl program. Keys that it does not know are ignored. The error is
// of kind BadInput; the ID is set even then, if the line gives one. The reply does not alias line.
func parseAnswer(line []byte) (answer, error) {
	bad := func(a answer, format string, args ...any) (answer, error) {
		return answer{ID: a.ID}, cellproto.Errorf("read answer", cellproto.BadInput, format, args...)
	}
	var members map[string]json.RawMessage
	if !utf8.Valid(line) {
		return bad(answer{ID: findID(line)}, "the line is not UTF-8")
	}
	if err := json.Unmarshal(line, &members); err != nil {
		return bad(answer{ID: findID(line)}, "the line is not a JSON object: %w", err)
	}
	a := answer{ID: parseID(members["id"])}
	if a.ID == 0 {
		return bad(a, "the line has no id of a request")
	}
	if call, calls := members["call"]; calls {
		a.Args = members["args"]
		if err := json.Unmarshal(call, &a.Call); err != nil || a.Call == "" {
			return bad(answer{}, "the line calls no function")
		}
		return a, nil
	}
	reply, replies := members["reply"]
	text, fails := members["error"]
	switch {
	case replies && fails:
		return bad(a, "the line has both a reply and an error")
	case replies:
		a.Reply = reply
	case !fails:
		return bad(a, "the line has neither a reply nor an error")
	default:
		if err := json.Unmarshal(text, &a.Error); err != nil || string(text) == "null" {
			return bad(a, "the error is not a text")
		}
		if a.Fails = true; a.Error == "" {
			a.Error = "the function failed"
		}
	}
	return a, nil
}

// parseID reads a request's number. Languages that have floats only may write 1 as 1.0.
func parseID(raw json.RawMessage) uint64 {
	if id, err := strconv.ParseUint(string(raw), 10, 64); err == nil {
		return id
	}
	if f, err := strconv.ParseFloat(string(raw), 64); err == nil && f == math.Trunc(f) && f >= 1 && f < 1<<53 {
		return uint64(f)
	}
	return 0
}

// findID looks for the number in a line that is cut or malformed, so that the call that it was meant
// for fails at once; 0 if it gives none.
func findID(line []byte) uint64 {
	dec := json.NewDecoder(bytes.NewReader(line))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return 0
	}
	for {
		key, err := dec.Token()
		if err != nil {
			return 0
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return 0
		}
		if key == "id" {
			return parseID(value)
		}
	}
}
