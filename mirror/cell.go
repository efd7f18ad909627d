package mirror

import (
	"debug/elf"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// pskFile is where a mirror keeps the pre-shared key of its network.
const pskFile = "keys/network.psk"

// Network is what a mirror is told of the network that it is announced in: that of the nucleus that has
// made it. A mirror that is not public has it too, but uses none of it.
type Network struct {
	Name      string
	Listen    []string
	Bootstrap []string
	MDNS      bool
	PSK       []byte // of a private network; nil: none
}

// How long a mirror lives without a call. Its nucleus is started again by the next one.
const (
	mirrorIdle    = 600  // s, the program
	mirrorNucleus = 3600 // s, the nucleus of one that is not announced
)

// Bounds that a manifest's resources are brought into: what strangers write is no reason to refuse a
// cell, nor to give it as much memory as it likes. Whoever wants to may write more into cell.toml.
const (
	minCPU, maxCPU       = 0.01, 1024 // of which a sandbox gives as many as there are
	minMemory, maxMemory = 4 << 20, 1 << 30
)

// cellToml gives the cell.toml of a mirror. It is read once more by whoever reads all others.
func (p *plan) cellToml() ([]byte, error) {
	m, d := p.manifest, celltoml.Default()
	var b strings.Builder
	add := func(key string, value any) { fmt.Fprintf(&b, "%s = %v\n", key, value) }
	text := func(key, value string) { add(key, strconv.QuoteToASCII(value)) }
	fmt.Fprintf(&b, "# A mirror of %s, made by celld: see %s.\n[cell]\n", p.what(), RecordFile)
	text("name", m.Name)
	text("version", m.Version)
	text("binary", p.binary)
	if m.Speaks != "" {
		text("speaks", m.Speaks)
	}
	b.WriteString("\n[life_cycle]\n")
	add("idle_timeout", mirrorIdle)
	if !p.Public {
		add("nucleus_timeout", mirrorNucleus)
	}
	if m.Challenge == cellproto.AuthNone {
		b.WriteString("\n[auth]\n")
		text("challenge", m.Challenge)
	}
	b.WriteString("\n[resources]\n")
	cpu, memory, concurrency := float64(m.Resources.CPUMilli)/1000, m.Resources.MemoryBytes, m.Resources.Concurrency
	add("cpu", clamp(cpu, d.Resources.CPU, minCPU, maxCPU))
	if memory > 0 {
		add("memory", min(max(memory, minMemory), maxMemory))
	}
	add("concurrency", clamp(concurrency, int64(d.Resources.Concurrency), 1, cellproto.MaxStreams))
	b.WriteString("\n[slo]\nclone_on_violation = false\n\n[network]\n")
	if p.of == "" {
		text("name", p.Network.Name)
	}
	add("listen", list(p.Network.Listen))
	add("bootstrap", list(p.Network.Bootstrap))
	add("mdns", p.Network.MDNS)
	if len(p.Network.PSK) > 0 {
		text("psk", pskFile)
	}
	b.WriteString("\n[privacy]\n")
	text("placement", m.Privacy)
	b.WriteString("\n# Its program is a stranger's, and never runs unconfined.\n[sandbox]\ntier = \"auto\"\n")
	out := []byte(b.String())
	if _, err := celltoml.Parse(out); err != nil {
		return nil, cellproto.Errorf("mirror "+p.what(), cellproto.BadInput, "its cell.toml would not do: %w", err)
	}
	return out, nil
}

// clamp brings v between least and most; 0, which says nothing, becomes otherwise.
func clamp[T int64 | float64](v, otherwise, least, most T) T {
	if v == 0 {
		v = otherwise
	}
	return min(max(v, least), most)
}

func list(texts []string) string {
	quoted := make([]string, len(texts))
	for i, s := range texts {
		quoted[i] = strconv.QuoteToASCII(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// machines are the processors of programs for Linux, as far as celld runs there.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64, "386": elf.EM_386, "arm": elf.EM_ARM}

// checkPlatform refuses a program that is none of this platform, whatever the manifest says. What it does
// not know it lets pass: the system does not.
func checkPlatform(r io.ReaderAt, goos, arch string) error {
	head := make([]byte, len(elf.ELFMAG))
	if _, err := r.ReadAt(head, 0); err != nil || string(head) != elf.ELFMAG || machines[arch] == 0 {
		return nil
	}
	f, err := elf.NewFile(r)
	if err != nil {
		return cellproto.Errorf("check the program", cellproto.Corrupt, "it is no whole program: %w", err)
	}
	if f.Machine != machines[arch] {
		return cellproto.Errorf("check the program", cellproto.Unsupported, "it is a program for %v, and the manifest says %s/%s", f.Machine, goos, arch)
	}
	return nil
}
