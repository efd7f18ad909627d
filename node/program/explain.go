package program

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/celldnet/celld/cellproto"
)

const (
	hintBuild  = "Build it: cellctl build."
	hintRename = "Write a new program under another name and rename it over the old one; cellctl build does."
)

// startError makes the error of a start that failed. The kind is Unavailable whatever the reason:
// the request did not run, and another provider of the cell may have a better program.
func startError(cfg Config, format string, args ...any) *cellproto.Error {
	return cellproto.Errorf("start "+cfg.Name, cellproto.Unavailable, format, args...)
}

// explainExec says why path could not be executed, and what to do about it.
func explainExec(cfg Config, path string, err error) *cellproto.Error {
	info, serr := os.Stat(path)
	switch {
	case errors.Is(serr, os.ErrNotExist):
		return startError(cfg, "the program %s is missing", cfg.Binary).WithHint(hintBuild)
	case serr != nil:
		return startError(cfg, "%w", serr)
	case !info.Mode().IsRegular():
		return startError(cfg, "%s is not a file", cfg.Binary).WithHint("cell.toml names the program under binary.")
	case errors.Is(err, syscall.ETXTBSY):
		return startError(cfg, "%s %w", cfg.Binary, errUnfinished).WithHint("%s", hintRename)
	case errors.Is(err, os.ErrPermission) && info.Mode()&0o111 == 0:
		return startError(cfg, "%s is not executable", cfg.Binary).WithHint("Run: chmod +x %s", path)
	case errors.Is(err, os.ErrPermission):
		return startError(cfg, "%s may not be executed here: %w", cfg.Binary, err).
			WithHint("Its file system may be mounted noexec, or it belongs to somebody else.")
	case errors.Is(err, os.ErrNotExist):
		return explainMissing(cfg, path)
	case errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.EIO), errors.Is(err, syscall.EINVAL):
		return explainFormat(cfg, path)
	}
	return startError(cfg, "%w", err)
}

// explainMissing is for a file that is there while exec says that it is not: something that it needs
// to be loaded is missing.
func explainMissing(cfg Config, path string) *cellproto.Error {
	head := readHead(path)
	if line, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		words := strings.Fields(string(appendEscaped(nil, line)))
		if len(words) > 0 {
			return startError(cfg, "%s is a script for %.200s, which is not installed here", cfg.Binary, words[0]).
				WithHint("Install it, or change the script's first line.")
		}
	}
	return startError(cfg, "%s needs a loader that is not installed here", cfg.Binary).
		WithHint("Link it statically (Go: CGO_ENABLED=0), or build it on a system like this one.")
}

// explainFormat is for a file that the system does not take as a program.
func explainFormat(cfg Config, path string) *cellproto.Error {
	what := formatOf(readHead(path))
	switch what {
	case "":
		return startError(cfg, "%s is empty", cfg.Binary).WithHint(hintBuild)
	case here:
		return startError(cfg, "%s is damaged or half-written", cfg.Binary).WithHint(hintBuild)
	case formatText:
		return startError(cfg, "%s is a script without a first line that names its interpreter", cfg.Binary).
			WithHint("Begin it with a line such as #!/bin/sh")
	case formatUnknown:
		return startError(cfg, "%s is not a program", cfg.Binary).WithHint(hintBuild)
	}
	return startError(cfg, "%s is a program for %s, this machine is %s", cfg.Binary, what, here).
		WithHint("Build it here: cellctl build.")
}

func readHead(path string) []byte {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	head := make([]byte, 256)
	n, err := io.ReadFull(f, head)
	if err != nil && n == 0 {
		return nil
	}
	return head[:n]
}

const (
	formatText    = "text"
	formatUnknown = "unknown"
)

// formatOf names the system and processor, as Go does, that a program with this head is made for, as
// far as they can be told; "" when there is nothing.
func formatOf(head []byte) string {
	switch {
	case len(head) == 0:
		return ""
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return elfFormat(head)
	case bytes.HasPrefix(head, []byte("MZ")):
		return "windows"
	case bytes.HasPrefix(head, []byte("\xcf\xfa\xed\xfe\x07\x00\x00\x01")):
		return "darwin/amd64"
	case bytes.HasPrefix(head, []byte("\xcf\xfa\xed\xfe\x0c\x00\x00\x01")):
		return "darwin/arm64"
	case bytes.IndexFunc(head, func(r rune) bool { return r < ' ' && r != '\n' && r != '\t' && r != '\r' }) < 0:
		return formatText
	}
	return formatUnknown
}

func elfFormat(head []byte) string {
	if len(head) < 20 {
		return here // as far as it goes: the rest is missing
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	little := order == binary.ByteOrder(binary.LittleEndian)
	wide := elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS64
	pick := func(ifWide, ifNot string) string {
		if wide {
			return ifWide
		}
		return ifNot
	}
	arch := ""
	switch machine := elf.Machine(order.Uint16(head[18:])); machine {
	case elf.EM_X86_64:
		arch = "amd64"
	case elf.EM_386:
		arch = "386"
	case elf.EM_AARCH64:
		arch = "arm64"
	case elf.EM_ARM:
		arch = "arm"
	case elf.EM_RISCV:
		arch = "riscv64"
	case elf.EM_PPC64:
		arch = "ppc64"
	case elf.EM_S390:
		arch = "s390x"
	case elf.EM_LOONGARCH:
		arch = "loong64"
	case elf.EM_MIPS:
		arch = pick("mips64", "mips")
	default:
		arch = machine.String()
	}
	if little && (strings.HasPrefix(arch, "mips") || arch == "ppc64") {
		arch += "le"
	}
	return "linux/" + arch
}

// explainExit says how a process ended before it was of use.
func explainExit(cfg Config, p *process, tail string) *cellproto.Error {
	e := startError(cfg, "the program ended before it said hello (%s)%s", p.status, quoteTail(tail))
	switch {
	case p.clean:
		return e.WithHint("A program stays in the foreground and serves. One that answers JSON lines needs speaks = \"jsonl\".")
	case strings.HasPrefix(p.status, "signal: segmentation fault"), strings.HasPrefix(p.status, "signal: bus error"),
		strings.HasPrefix(p.status, "signal: illegal instruction"):
		return e.WithHint("It may be half-written or made for another processor. " + hintBuild)
	}
	return e.WithHint("See what it printed: cellctl logs.")
}

// explainHello says why a process that lives has not said hello.
func explainHello(cfg Config, connErr error, late bool, tail string) *cellproto.Error {
	const hintSpeaks = "A program that answers JSON lines needs speaks = \"jsonl\"; one that speaks frames uses the SDK, or docs/protocol.md."
	switch {
	case late:
		return startError(cfg, "the program has not said hello for %v%s", cfg.StartTimeout, quoteTail(tail)).WithHint(hintSpeaks)
	case connErr == nil || errors.Is(connErr, io.EOF) || cellproto.KindOf(connErr) == cellproto.Failed:
		return startError(cfg, "the program closed its connection without a hello%s", quoteTail(tail)).WithHint(hintSpeaks)
	}
	return startError(cfg, "the program does not speak frames: %w", connErr).WithHint(hintSpeaks)
}

// explainCrash says how a process ended that served.
func explainCrash(cfg Config, lived time.Duration, status, tail string) *cellproto.Error {
	return cellproto.Errorf("run "+cfg.Name, cellproto.Unavailable, "the program ended %v after its start (%s)%s",
		lived.Round(time.Millisecond), status, quoteTail(tail)).WithHint("See what it printed: cellctl logs.")
}

func quoteTail(tail string) string {
	if tail == "" {
		return ""
	}
	return fmt.Sprintf("; it printed: %s", tail)
}
