package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Of the first use of a CID: so many cells with so many providers each, and callers that have never
// seen any of them.
const (
	firstCells     = 10
	firstProviders = 2
	firstCallers   = 3
)

// first measures the first use of a CID that its caller has never seen, in a network of 20 hosts: the
// lookup in the DHT, adverts and pings of all providers, manifest and schema, the call; and the
// second use. For the first caller the programs are asleep.
func first(b *bench) error {
	n, err := b.network("first")
	if err != nil {
		return err
	}
	cids, err := n.publishMany()
	if err != nil {
		return err
	}
	if err := n.awaitProviders(firstProviders, cids...); err != nil {
		return err
	}
	var firsts, seconds samples
	for i := range firstCallers {
		caller, err := n.cell(fmt.Sprintf("caller-%d", i), "")
		if err != nil {
			return err
		}
		time.Sleep(settle)
		for _, cid := range cids {
			for _, s := range []*samples{&firsts, &seconds} {
				took, err := n.timeUse(caller, cid, s == &firsts)
				if err != nil {
					return err
				}
				*s = append(*s, float64(took))
			}
		}
	}
	for _, r := range []struct {
		what string
		took samples
		goal time.Duration
	}{
		{"first: use of a CID never seen, 20 hosts, p50 (and quartiles)", firsts, time.Second},
		{"first: the second use, p50 (and quartiles)", seconds, 30 * time.Millisecond},
	} {
		m := r.took.median()
		b.add(row{
			what: r.what, ours: r.took.spread(),
			goal: "≤ " + r.goal.String(), met: yes(m <= float64(r.goal)),
		})
	}
	return nil
}

// timeUse runs the whole process of cellctl. It insists that the provider was found in the DHT and
// won a race exactly if this is the first use.
func (n *network) timeUse(caller *cellDir, cid string, raced bool) (time.Duration, error) {
	cmd := n.command(caller.dir, "use", "--json", cid, "add", "3", "4")
	begin := time.Now()
	out, err := cmd.Output()
	took := time.Since(begin)
	var r struct {
		Reply  int
		Source string
		Raced  bool
	}
	if err == nil {
		err = json.Unmarshal(out, &r)
	}
	if err == nil && (r.Reply != 7 || r.Source != "dht" || r.Raced != raced) {
		err = errors.New("not what was expected")
	}
	if err != nil {
		return 0, fmt.Errorf("use %s printed %q: %w", cid, out, err)
	}
	return took, nil
}

// settle is how long a fresh nucleus is left to join the network.
const settle = 2 * time.Second

// publishMany starts the cells and their copies and publishes each.
func (n *network) publishMany() ([]string, error) {
	cids := make([]string, firstCells)
	for i := range cids {
		name := fmt.Sprintf("cell-%d", i)
		c, err := n.cell(name, "echo")
		if err != nil {
			return nil, err
		}
		if cids[i], err = n.publish(c); err != nil {
			return nil, err
		}
		for k := 1; k < firstProviders; k++ {
			if _, err := n.copy(c, fmt.Sprintf("%s-copy-%d", name, k)); err != nil {
				return nil, err
			}
		}
		// The program that publish has started would make the first use faster than it is.
		if err := n.sleep(c); err != nil {
			return nil, err
		}
	}
	return cids, nil
}
