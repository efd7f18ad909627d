package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
		l.Put(celllock.Cell{Target: "./" + schema.Cell, Cell: schema.Cell, Schema: schema.Hash(), File: "clients/" + schema.Cell + ".schema.json"})
		live := *schema
		if i%2 == 0 { // every other one has a function more
			live.Functions = map[string]cellproto.Function{"more": {}}
			for k, f := range schema.Functions {
				live.Functions[k] = f
			}
		}
		write(name+"cache/schema.json", live.Canonical())
	}
	if err := l.write(); err != nil {
		t.Fatal(err)
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
