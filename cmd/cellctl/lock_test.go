package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
)

// check of fifty cells without asking anybody, as a process; how long it takes is printed.
func TestCheckFiftyOffline(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, data, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	l := &lock{File: celllock.File{Version: celllock.Version}, dir: dir}
	schema := &cellproto.Schema{Functions: map[string]cellproto.Function{}}
	for i := range 20 {
		schema.Functions[fmt.Sprint("f", i)] = cellproto.Function{
			Input: json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"}},"required":["a"]}`), Output: json.RawMessage(`{"type":"number"}`),
		}
	}
	for i := range 50 {
		schema.Cell = fmt.Sprint("cell", i)
		name := schema.Cell + "/"
		write(name+"cell.toml", []byte("[cell]\nname = \""+schema.Cell+"\"\nversion = \"1.0.0\"\nbinary = \"bin/x\"\nspeaks = \"frames\"\n"))
		write("clients/"+schema.Cell+".schema.json", schema.Canonical())
		err := l.put(celllock.Cell{Target: "./" + schema.Cell, Cell: schema.Cell, Schema: schema.Hash(), File: "clients/" + schema.Cell + ".schema.json"})
		if err != nil {
			t.Fatal(err)
		}
		live := *schema
		if i%2 == 0 { // every other one has a function more
			live.Functions = map[string]cellproto.Function{"more": {}}
			for k, f := range schema.Functions {
				live.Functions[k] = f
			}
		}
		write(name+"cache/schema.json", live.Canonical())
	}
	var took, cpu []time.Duration
	for range 5 {
		cmd := exec.Command(filepath.Join(binDir, "cellctl"), "check", "--offline", "--json")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CELL_HOME="+filepath.Join(dir, "home"))
		begun := time.Now()
		out, err := cmd.CombinedOutput()
		took = append(took, time.Since(begun))
		cpu = append(cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		if err != nil || strings.Count(string(out), `"state":"same"`) != 25 || strings.Count(string(out), `"state":"compatible"`) != 25 {
			t.Fatalf("%v\n%.2000s", err, out)
		}
	}
	slices.Sort(took)
	slices.Sort(cpu)
	t.Logf("check of 50 cells offline: median %v of %v; processor time %v of %v", took[2], took, cpu[2], cpu)
}

// Several processes write one lock, and each finds what it has put there.
func TestLockIsShared(t *testing.T) {
	dir := t.TempDir()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			l := &lock{File: celllock.File{Version: celllock.Version}, dir: dir}
			name := fmt.Sprint("cell", i)
			if err := l.put(celllock.Cell{Target: name, Cell: name, File: name + ".schema.json"}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if f, err := celllock.Read(dir); err != nil || len(f.Cells) != 20 {
		t.Errorf("%d of 20 cells, %v", len(f.Cells), err)
	}
}

// No client takes the file of another cell's, and those in other languages are made from the same schema.
func TestClientsKeepApart(t *testing.T) {
	l := &lock{File: celllock.File{Version: celllock.Version}, dir: t.TempDir()}
	put := func(name, cell string, functions int, langs ...string) error {
		t.Helper()
		chosen, err := languages(langs)
		if err != nil {
			t.Fatal(err)
		}
		s := &cellproto.Schema{Cell: cell, Functions: map[string]cellproto.Function{}}
		for i := range functions {
			s.Functions[fmt.Sprint("f", i)] = cellproto.Function{}
		}
		_, err = l.generate(target{text: name}, &described{schema: s}, "clients", chosen)
		return err
	}
	if err := put("math-lib", "math-lib", 1, "go"); err != nil {
		t.Fatal(err)
	}
	if err := put("mathlib", "mathlib", 1, "go"); cellproto.KindOf(err) != cellproto.BadInput {
		t.Errorf("a package that another cell's client has: %v", err)
	}
	if err := put("math-lib", "math-lib", 2, "python"); err != nil {
		t.Fatal(err)
	}
	if len(l.Cells) != 1 || len(l.Cells[0].Clients) != 2 || len(l.stale(&l.Cells[0])) > 0 {
		t.Errorf("after a client in another language, of another schema: %+v", l.Cells)
	}
	if err := put("inspect", "inspect", 1, "python"); err != nil || l.Cells[0].Files()[0] != "clients/inspect_cell.py" {
		t.Errorf("%v, %+v", err, l.Cells)
	}
}
