package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// verdict is what a new schema means to those who call.
type verdict struct {
	broken []ctl.Broken // schemas that somebody uses
	idle   []ctl.Broken // that nobody uses: the one that is served
	notes  []string     // what could not be compared
	named  int          // callers in broken
	says   bool         // somebody who is broken says what it was made for, and so can be led to the version before
}

// How many callers a verdict names, so that what is told of it fits into ctl.MaxLine. The others are counted.
const (
	namedUsers    = 64 // of one schema
	namedUsersAll = 1024
)

// weigh compares a new schema, nil if the new program names none, with the one that it comes after and with all that
// are in use. Who is broken already by the one before is not asked again.
func weigh(before, next *cellproto.Schema, used []call.Used, get func(cellproto.SchemaHash) *cellproto.Schema) verdict {
	var v verdict
	seen := false
	for _, u := range used {
		current := before != nil && u.Schema == before.Hash()
		seen = seen || current
		old := before
		if !current {
			old = get(u.Schema)
		}
		if old == nil {
			v.notes = append(v.notes, fmt.Sprintf("%s say that they were made for schema %s, which this cell never had, or has forgotten",
				callersText(u.Users, 0), shortHash(u.Schema)))
			continue
		}
		changes := breaks(old, next)
		if len(changes) == 0 || !current && len(breaks(old, before)) > 0 && before != nil {
			continue
		}
		v.breaks(u.Schema, changes, u.Users)
	}
	if before != nil && !seen {
		if changes := breaks(before, next); len(changes) > 0 {
			v.idle = append(v.idle, brokenRow(before.Hash(), changes))
		}
	}
	return v
}

// breaks gives how next breaks callers of old.
func breaks(old, next *cellproto.Schema) []cellproto.Change {
	if old != nil && next == nil {
		return []cellproto.Change{{Func: "schema", What: "the new program names none"}}
	}
	return cellproto.Compatible(old, next)
}

// breaks notes a schema that is broken for those who use it.
func (v *verdict) breaks(hash cellproto.SchemaHash, changes []cellproto.Change, users []call.User) {
	row := brokenRow(hash, changes)
	for _, one := range users {
		v.says = v.says || one.Says
		if len(row.Callers) == namedUsers || v.named == namedUsersAll {
			row.More += max(one.More, 1)
			continue
		}
		v.named++
		row.Callers = append(row.Callers, ctl.SchemaCaller{Who: one.Who, Says: one.Says, LastCall: one.Last.UTC(), SaidBy: one.By, More: one.More})
	}
	v.broken = append(v.broken, row)
}

func brokenRow(hash cellproto.SchemaHash, changes []cellproto.Change) ctl.Broken {
	row := ctl.Broken{Schema: hash.String(), Changes: []string{}, Callers: []ctl.SchemaCaller{}}
	for _, c := range changes {
		row.Changes = append(row.Changes, c.String())
	}
	return row
}

// changes gives all that breaks somebody, or would, each once.
func (v *verdict) changes() (list []string) {
	seen := map[string]bool{}
	for _, rows := range [][]ctl.Broken{v.broken, v.idle} {
		for _, row := range rows {
			for _, c := range row.Changes {
				if !seen[c] {
					seen[c] = true
					list = append(list, c)
				}
			}
		}
	}
	return list
}

// refuse gives the error of a change that breaks somebody, nil if it does not.
func (v *verdict) refuse(op, from, force string) error {
	if len(v.broken) == 0 {
		return nil
	}
	var parts []string
	hint := fmt.Sprintf("Keep what is called, raise the major version in cell.toml, or %s --force.", force)
	claimed := false
	for _, row := range v.broken {
		var users []call.User
		for _, c := range row.Callers {
			users = append(users, call.User{Who: c.Who, Says: c.Says, Last: c.LastCall, By: c.SaidBy, More: c.More})
			claimed = claimed || c.SaidBy != ""
		}
		parts = append(parts, fmt.Sprintf("%s (schema %s, used by %s)", strings.Join(row.Changes, "; "), row.Schema[:shownSchemaID], callersText(users, row.More)))
	}
	if claimed {
		hint += fmt.Sprintf(" What others say is their word: %s --seen goes by the callers whom this nucleus has seen.", force)
	}
	return cellproto.Errorf(op, cellproto.Incompatible, "it would break those who call version %s: %s", from, strings.Join(parts, "; ")).
		WithHint("%s", hint)
}

// told gives what is no reason to refuse a change, and yet to be known.
func (v *verdict) told() (list []string) {
	for _, row := range v.idle {
		list = append(list, "it breaks schema "+row.Schema[:shownSchemaID]+", which nobody uses: "+strings.Join(row.Changes, "; "))
	}
	return append(list, v.notes...)
}

func shortHash(h cellproto.SchemaHash) string { return h.String()[:shownSchemaID] }

// callersText names callers in a sentence. more is how many there are besides.
func callersText(users []call.User, more int) string {
	var names []string
	for _, u := range users[:min(len(users), shownUsers)] {
		names = append(names, callerText(u))
	}
	text := strings.Join(names, "; ")
	if more += len(users) - len(names); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

func callerText(u call.User) string {
	text := u.Who
	if u.More > 0 {
		text = plural(u.More, "caller", "callers") + " without a name"
	}
	if u.Last.Unix() > 0 { // of who was made for it, and has not called there, it is not known
		text += ", last at " + u.Last.Local().Format(time.DateTime)
	}
	if u.By != "" {
		text += ", says " + u.By
	}
	return text
}

// judgeBy says whether the cell may go on with a new schema, which comes after another one: for those of whom this
// nucleus knows that they call, and unless they do not matter, for those of whom others know it. The error is that of
// ctx, if it ends before they have been asked.
func (n *nucleus) judgeBy(ctx context.Context, g ctl.Guard, before, next *cellproto.Schema, say func(string)) (verdict, error) {
	used := n.users()
	var notes []string
	if !g.Force && !g.Seen {
		if cells := n.serving.affected(before, next); len(cells) > 0 {
			all, unknown, err := n.survey(ctx, cells, say)
			if err != nil {
				return verdict{}, err
			}
			notes = unknown
			now := time.Now()
			used = join(used, all, n.identity.Peer, n.schemas.has, now.Add(-n.cfg.LifeCycle.RetireAfter), now)
		}
	}
	v := weigh(before, next, used, n.schemas.get)
	v.notes = append(v.notes, notes...)
	return v, nil
}
