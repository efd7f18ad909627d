package node

import (
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node/call"
)

// usersFile says who calls by which schema. It can be deleted: who calls is noted anew.
const usersFile = "users.json" // under cache/

const (
	maxUsersFile  = 4 << 20 // bytes
	saveUsers     = time.Minute
	maxHolders    = 256 // callers that the program has itself
	shownUsers    = 16  // of one schema, in a message; status has all
	shownSchemaID = 12  // hex digits of a hash, in a message
)

// keepUsers takes up who has called before, and writes down who does, now and then.
func (n *nucleus) keepUsers(started *closers) {
	path := n.serving.cacheFile(usersFile)
	var before []call.Used
	if data, err := readBounded(path, maxUsersFile); err == nil {
		if err := json.Unmarshal(data, &before); err != nil {
			n.log.Warn("who has called before is not known any more", zap.Error(err))
		}
	}
	n.server.Remember(before, time.Now())
	if n.taken != nil && n.program != nil && n.program.GrantedUse().Conns > 0 {
		touches := n.server.StillHolds(before)
		n.grantedMu.Lock()
		n.holders = append(n.holders, touches[:min(len(touches), maxHolders)]...)
		n.grantedMu.Unlock()
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(saveUsers)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n.saveUsers()
			case <-stop:
				n.saveUsers()
				return
			}
		}
	}()
	end := once(func() { close(stop); <-ended })
	started.add(end)
	n.upgrades.goodbye.add(end) // the next celld reads it
}

func (n *nucleus) saveUsers() {
	used := n.users()
	if len(used) == 0 {
		return
	}
	data, err := json.Marshal(used)
	if err == nil {
		err = n.serving.write(usersFile, data)
	}
	if err != nil {
		n.log.Warn("cannot write down who calls", zap.Error(err))
	}
}

// users gives who uses which schema: who has called within retire_after.
func (n *nucleus) users() []call.Used {
	n.load() // notes what callers did whose connections the program has
	return n.server.Users(time.Now().Add(-n.cfg.LifeCycle.RetireAfter))
}

// holds notes a caller whose connection the program has. Which of them calls is not known here: when one
// does, all count.
func (n *nucleus) holds(who call.Who, hello *cellproto.Hello) {
	touch := n.server.Holds(who, hello)
	touch(time.Now())
	n.grantedMu.Lock()
	defer n.grantedMu.Unlock()
	if len(n.holders) >= maxHolders {
		n.holders = n.holders[1:]
	}
	n.holders = append(n.holders, touch)
}

// schemaUsers is that for people and programs.
func (n *nucleus) schemaUsers() []ctl.SchemaUse {
	rows := []ctl.SchemaUse{}
	now := n.server.Serving().Hash
	for _, u := range n.users() {
		row := ctl.SchemaUse{Schema: u.Schema.String(), Served: u.Schema == now, Known: n.schemas.has(u.Schema), Callers: []ctl.SchemaCaller{}}
		for _, one := range u.Users {
			row.Callers = append(row.Callers, ctl.SchemaCaller{Who: one.Who, Says: one.Says, LastCall: one.Last.UTC()})
		}
		row.Count = len(row.Callers)
		rows = append(rows, row)
	}
	return rows
}
