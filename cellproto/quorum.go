package cellproto

import (
	"fmt"
	"strconv"
	"strings"
)

// MetaQuorum is the key of a request's meta by which a caller asks its own nucleus for a quorum; it does
// not leave that. The reply's meta has the other three.
const (
	MetaQuorum = "quorum"        // of a request: "2of3"
	MetaAgreed = "quorum.agreed" // of a reply: how many gave it
	MetaAsked  = "quorum.asked"  // how many answered
	MetaLiars  = "quorum.liars"  // peers that gave another one, with spaces between
)

// Quorum says how many providers are asked the same, and how many of them must give the same reply. The
// zero value is no quorum.
type Quorum struct{ Agree, Ask int }

// String gives the form that ParseQuorum reads.
func (q Quorum) String() string { return fmt.Sprintf("%dof%d", q.Agree, q.Ask) }

// ParseQuorum reads "2of3": 2 <= Agree <= Ask <= MaxProbed, and Agree is more than half of Ask, since two
// replies could both have fewer. Else the error is of kind BadInput.
func ParseQuorum(s string) (Quorum, error) {
	const op = "read quorum"
	agree, ask, ok := strings.Cut(s, "of")
	a, aerr := parseCount(agree)
	n, nerr := parseCount(ask)
	if !ok || aerr != nil || nerr != nil {
		return Quorum{}, Errorf(op, BadInput, "%.40q is not of the form 2of3", s).
			WithHint("2of3 asks three providers, of whom two must give the same reply.")
	}
	switch {
	case a < 2 || a > n || n > MaxProbed:
		return Quorum{}, Errorf(op, BadInput, "%s: it takes 2 that agree at least, and %d that are asked at most", s, MaxProbed).
			WithHint("2of3 asks three providers, of whom two must give the same reply.")
	case 2*a <= n:
		return Quorum{}, Errorf(op, BadInput, "%s: two different replies could both have %d", s, a).
			WithHint("More than half must agree: %s.", Quorum{n/2 + 1, n})
	}
	return Quorum{Agree: a, Ask: n}, nil
}

// parseCount reads one or two digits, and nothing else that strconv takes.
func parseCount(s string) (int, error) {
	if len(s) == 0 || len(s) > 2 || s[0] < '1' || s[0] > '9' {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(s)
}
