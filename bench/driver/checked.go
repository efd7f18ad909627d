package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celllock"
	"github.com/celldnet/celld/cmd/cellctl/gen"
)

// What check is given: so many dependencies with so many functions each. Half of them have changed, compatibly.
const (
	checkedCells     = 50
	checkedFunctions = 20
)

// checked measures "cellctl check --offline", which nobody waits for but every build does, and how long the client of a large
// cell takes to write.
func checked(b *bench) error {
	dir := filepath.Join(b.dir, "checked")
	if err := writeDependencies(dir); err != nil {
		return err
	}
	var wall, cpu, line, lineCPU samples
	for i := range b.o.rounds + 1 {
		check := exec.CommandContext(b.ctx, filepath.Join(b.o.bin, "cellctl"), "check", "--offline", "--json")
		check.Dir, check.Env = dir, append(os.Environ(), cellproto.EnvHome+"="+filepath.Join(dir, "home"))
		hello := exec.CommandContext(b.ctx, filepath.Join(b.o.bin, "hello"))
		run := func(cmd *exec.Cmd, wall, cpu *samples) (string, error) {
			begun := time.Now()
			out, err := cmd.Output()
			if i > 0 { // the first one warms up
				*wall = append(*wall, float64(time.Since(begun)))
				*cpu = append(*cpu, float64(cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()))
			}
			return string(out), err
		}
		if i%2 == 0 {
			if _, err := run(hello, &line, &lineCPU); err != nil {
				return err
			}
		}
		out, err := run(check, &wall, &cpu)
		if err == nil && (strings.Count(out, `"state":"same"`) != checkedCells/2 || strings.Count(out, `"state":"compatible"`) != checkedCells/2) {
			err = fmt.Errorf("not what was expected")
		}
		if err != nil {
			return fmt.Errorf("check printed %.2000q: %w", out, err)
		}
		if i%2 == 1 {
			if _, err := run(hello, &line, &lineCPU); err != nil {
				return err
			}
		}
	}
	what := fmt.Sprintf("typed: cellctl check of %d dependencies offline, whole process", checkedCells)
	b.addRatio(comparison{what: what + " / a Go program that prints a line", format: duration, within: float64(200 * time.Millisecond)}, wall, line)
	b.addRatio(comparison{what: "typed: of that, processor time / of the same", format: duration}, cpu, lineCPU)
	return b.generated()
}

// generated measures how long the client of a cell with 200 functions takes to write.
func (b *bench) generated() error {
	var took samples
	s := dependency("large", 200)
	for range b.o.rounds {
		begun := time.Now()
		if _, _, err := gen.Go(s); err != nil {
			return err
		}
		took = append(took, float64(time.Since(begun)))
	}
	const goal = 2 * time.Second
	b.add(row{
		what: "typed: a client in Go for 200 functions written, p50 (and quartiles)", ours: took.spread(),
		goal: "≤ " + goal.String(), met: yes(took.median() <= float64(goal)),
	})
	return nil
}

// dependency gives the schema of a cell that takes and gives what cells do.
func dependency(name string, functions int) *cellproto.Schema {
	item := `{"type":"object","properties":{"id":{"type":"integer"},"name":{"type":"string","description":"what it is called"},` +
		`"made":{"type":"string","format":"date-time"},"tags":{"type":["array","null"],"items":{"type":"string"}},` +
		`"inner":{"anyOf":[{"$ref":"#/$defs/Item"},{"type":"null"}]}},"required":["id","name","made","tags","inner"]}`
	s := &cellproto.Schema{Cell: name, Functions: map[string]cellproto.Function{}}
	for i := range functions {
		s.Functions[fmt.Sprint("function", i)] = cellproto.Function{
			Doc:   "Does what the function before it does, and a little more.",
			Input: json.RawMessage(`{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}},"required":["query"],"additionalProperties":false}`), Pure: true,
			Output: json.RawMessage(`{"type":["array","null"],"items":{"$ref":"#/$defs/Item"},"$defs":{"Item":` + item + `}}`),
		}
	}
	return s
}

// writeDependencies writes the cells' directories, with the schemas that they have now, their clients, and the lock.
func writeDependencies(dir string) error {
	write := func(name string, data []byte) error {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	}
	lock := celllock.File{Version: celllock.Version}
	for i := range checkedCells {
		s := dependency(fmt.Sprint("cell", i), checkedFunctions)
		pkg, code, err := gen.Go(s)
		if err != nil {
			return err
		}
		client := celllock.Client{Lang: "go", File: "clients/" + pkg + "/" + pkg + ".go"}
		lock.Put(celllock.Cell{
			Target: "./" + s.Cell, Cell: s.Cell, Schema: s.Hash(), File: "clients/" + s.Cell + ".schema.json", Clients: []celllock.Client{client},
		})
		files := map[string][]byte{client.File: code, "clients/" + s.Cell + ".schema.json": s.Canonical()}
		files[s.Cell+"/cell.toml"] = fmt.Appendf(nil, "[cell]\nname = %q\nversion = \"1.0.0\"\nbinary = \"bin/x\"\nspeaks = \"frames\"\n", s.Cell)
		if i%2 == 0 {
			s = dependency(s.Cell, checkedFunctions+1)
		}
		files[s.Cell+"/cache/schema.json"] = s.Canonical()
		for name, data := range files {
			if err := write(name, data); err != nil {
				return err
			}
		}
	}
	data, err := json.Marshal(lock)
	if err != nil {
		return err
	}
	return write(celllock.FileName, data)
}
