package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const artefactSize = 20 << 20 // bytes

// artefact compares how long 20 MB take from one nucleus to another with how long they take from one
// kubo to another: other bytes each round, so that neither side has them already.
func artefact(b *bench) error {
	from, to, err := holders(b)
	if err != nil {
		return err
	}
	round := 0
	ours := func() (float64, error) {
		round++
		path, sum, err := b.random(fmt.Sprintf("ours-%d", round))
		if err != nil {
			return 0, err
		}
		return transfer(b, from, to, path, sum)
	}
	what := "artefact: 20 MB between two nuclei"
	if b.o.kubo == "" {
		return b.alone(what, ours)
	}
	k, err := b.kubo()
	if err != nil {
		return err
	}
	theirs := func() (float64, error) {
		path, sum, err := b.random(fmt.Sprintf("kubo-%d", round))
		if err != nil {
			return 0, err
		}
		return k.transfer(path, sum)
	}
	// The ratio is one of speeds: kubo's time to ours.
	inverse := func(s side) side {
		return func() (float64, error) {
			ns, err := s()
			return artefactSize / 1e6 / (ns / 1e9), err
		}
	}
	return b.compare(comparison{
		what: what + " / kubo to kubo", ours: inverse(ours), peer: inverse(theirs),
		format: func(v float64) string { return fmt.Sprintf("%.0f MB/s", v) }, least: 4,
	})
}

// alone measures a side that has no peer here.
func (b *bench) alone(what string, s side) error {
	var got samples
	for range b.o.rounds {
		v, err := s()
		if err != nil {
			return err
		}
		got = append(got, v)
	}
	b.add(row{what: what, ours: duration(got.median()), peer: "not measured"})
	return nil
}

// random writes a file of artefactSize random bytes; the caller removes it with the fetched one.
func (b *bench) random(name string) (path string, sum [32]byte, err error) {
	data := make([]byte, artefactSize)
	rand.Read(data)
	path = filepath.Join(b.dir, "artefact-"+name)
	return path, sha256.Sum256(data), os.WriteFile(path, data, 0o600)
}

// same checks a fetched file and removes it.
func same(path string, sum [32]byte) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if sha256.Sum256(data) != sum {
		return errors.New("other bytes came out")
	}
	return os.RemoveAll(path)
}

// holder is a process in the role "hold".
type holder struct {
	pr   *proc
	addr string
}

func holders(b *bench) (from, to *holder, err error) {
	var made [2]*holder
	for i := range made {
		pr, addr, err := b.procs.serve(b.self(), "role", "hold", filepath.Join(b.dir, fmt.Sprintf("holder-%d", i)))
		if err != nil {
			return nil, nil, err
		}
		made[i] = &holder{pr, addr}
	}
	return made[0], made[1], nil
}

func (h *holder) order(b *bench, o order) (done, error) {
	var d done
	if err := json.NewEncoder(h.pr.stdin).Encode(o); err != nil {
		return d, err
	}
	line, err := h.pr.line(b.ctx, readyTimeout)
	if err != nil {
		return d, err
	}
	if err := json.NewDecoder(bytes.NewBufferString(line)).Decode(&d); err != nil {
		return d, err
	}
	if d.Error != "" {
		return d, errors.New(d.Error)
	}
	return d, nil
}

// transfer adds a file here and fetches it there; the fetch counts.
func transfer(b *bench, from, to *holder, path string, sum [32]byte) (float64, error) {
	added, err := from.order(b, order{Add: path})
	if err != nil {
		return 0, err
	}
	out := path + ".fetched"
	got, err := to.order(b, order{Get: &added.File, From: from.addr, To: out})
	if err != nil {
		return 0, err
	}
	if err := same(out, sum); err != nil {
		return 0, err
	}
	time.Sleep(pause)
	return float64(got.Took), os.Remove(path)
}

// pause is left between two transfers, for the disk.
const pause = 100 * time.Millisecond
