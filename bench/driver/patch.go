package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// patchGoal is how long a patch may take, from the drop of its file to the first reply of the program
// that it makes.
const patchGoal = 150 * time.Millisecond

// patched drops a patch into a cell whose program, of the size of a nucleus, runs and is called, and
// deletes it again. Two strings change. What the program itself takes to start no patch can save.
func patched(b *bench) error {
	n, err := b.network("patch")
	if err != nil {
		return err
	}
	c, err := n.cell("large", "large-one")
	if err != nil {
		return err
	}
	file, size, err := b.makePatch(n, c)
	if err != nil {
		return err
	}
	name := filepath.Join(c.dir, "patch", "a.patch")
	var totals, wakes samples
	var laps [3]samples
	for round := range b.o.rounds + 1 {
		if err := n.sleep(c); err != nil {
			return err
		}
		wake, err := b.firstReply(c, "one 1", func() error { return nil })
		if err != nil {
			return err
		}
		time.Sleep(settle) // the start of the nucleus is not what is measured
		before, err := lapsLogged(c)
		if err != nil {
			return err
		}
		total, err := b.firstReply(c, "two 2", func() error { return os.Rename(file, name) })
		if err != nil {
			return err
		}
		lap, err := b.lastLaps(c, before)
		if err != nil {
			return err
		}
		if _, err := b.firstReply(c, "one 1", func() error { return os.Rename(name, file) }); err != nil {
			return err
		}
		if round == 0 {
			continue // warms up
		}
		totals, wakes = append(totals, float64(total)), append(wakes, float64(wake))
		for i := range laps {
			laps[i] = append(laps[i], lap[i]*1e9)
		}
	}
	b.add(row{
		what: fmt.Sprintf("patch: from the drop of %.0f KiB to the first reply of the new program of %.0f MiB, p50 (and quartiles)", size[0], size[1]),
		ours: totals.spread(),
		goal: "≤ " + patchGoal.String(), met: yes(totals.median() <= float64(patchGoal)),
	})
	for i, what := range []string{"hashing and rebuilding the program", "writing, syncing and replacing its file", "starting it and moving to it"} {
		b.add(row{what: "patch: of these, " + what, ours: duration(laps[i].median())})
	}
	b.add(row{what: "patch: the first call to the same program when it sleeps", ours: duration(wakes.median())})
	return nil
}

// makePatch makes the patch from one build to the other, and has the cell trust its signer. It gives
// the sizes of the patch in KiB and of the program in MiB.
func (b *bench) makePatch(n *network, c *cellDir) (file string, size [2]float64, err error) {
	file, key := filepath.Join(b.dir, "patch", "a.patch"), filepath.Join(b.dir, "patch", "owner.key")
	public, err := n.cellctl(b.dir, "patch", "keygen", key)
	if err != nil {
		return "", size, err
	}
	out, err := n.cellctl(b.dir, "patch", "make", filepath.Join(b.o.bin, "large-one"), filepath.Join(b.o.bin, "large-two"), "--key", key, "-o", file, "--json")
	if err != nil {
		return "", size, err
	}
	var made struct{ Size float64 }
	if err := json.Unmarshal(out, &made); err != nil {
		return "", size, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "keys", "owner.pub"), public, 0o600); err != nil {
		return "", size, err
	}
	toml := filepath.Join(c.dir, "cell.toml")
	text, err := os.ReadFile(toml)
	if err != nil {
		return "", size, err
	}
	info, err := os.Stat(filepath.Join(b.o.bin, "large-two"))
	if err != nil {
		return "", size, err
	}
	return file, [2]float64{made.Size / 1024, float64(info.Size()) / (1 << 20)}, os.WriteFile(toml, append(text, "\n[patch]\ntrusted_keys = [\"owner.pub\"]\n"...), 0o600)
}

var lapPattern = regexp.MustCompile(`another program runs.*"rebuilt": ([0-9.e-]+), "replaced": ([0-9.e-]+), "swapped": ([0-9.e-]+)`)

// lapsLogged finds in the nucleus's log what it says of each change.
func lapsLogged(c *cellDir) ([][]string, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "log", "nucleus.log"))
	return lapPattern.FindAllStringSubmatch(string(text), -1), err
}

// lastLaps gives how long the steps of the change took, in seconds, that is logged after those before.
// That may be just after the new program's first reply.
func (b *bench) lastLaps(c *cellDir, before [][]string) ([3]float64, error) {
	var laps [3]float64
	for end := time.Now().Add(readyTimeout); ; time.Sleep(10 * time.Millisecond) {
		logged, err := lapsLogged(c)
		if err != nil {
			return laps, err
		}
		if len(logged) > len(before) {
			for i := range laps {
				if laps[i], err = strconv.ParseFloat(logged[len(before)][i+1], 64); err != nil {
					return laps, err
				}
			}
			return laps, nil
		}
		if time.Now().After(end) || b.ctx.Err() != nil {
			return laps, errors.New("the nucleus's log says nothing of a change")
		}
	}
}
