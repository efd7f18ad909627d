package node

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/celldnet/celld/cellproto"
)

// handoverFormat is the version of the state that one celld hands to another. It rises when an older
// celld could not read, or would misunderstand, what a newer one writes, or the other way round.
const handoverFormat = 1

const (
	checkTime  = 10 * time.Second // for the other celld to answer
	maxChecked = 4 << 10          // bytes of its answer
)

// CheckHandover writes which handovers this celld can take and, as an error, why it could not be the
// nucleus of the cell in dir: its cell.toml or keys are not for it.
func CheckHandover(w io.Writer, dir, version string, getenv func(string) string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return cellproto.Errorf("check "+dir, cellproto.Failed, "%w", err)
	}
	toml, err := loadConfig(dir, getenv)
	if err != nil {
		return err
	}
	if _, err := allowedKeys(toml); err != nil {
		return err
	}
	if toml.Network.PSK != "" {
		if _, err := readPSK(toml.Path(toml.Network.PSK)); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(w, "handover: %d\ncelld: %s\n", handoverFormat, version)
	return err
}

// successor is a file that can take over, as it was when it was looked at.
type successor struct {
	path    string
	info    os.FileInfo
	version string
}

// examine looks at the file that is to take over, and has it say that it can.
func examine(ctx context.Context, path, dir string) (*successor, error) {
	op := "check " + path
	info, err := os.Stat(path)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return nil, cellproto.Errorf(op, cellproto.BadInput, "it is not a regular file")
	case mode.Perm()&0o111 == 0:
		return nil, cellproto.Errorf(op, cellproto.BadInput, "it is not executable").WithHint("chmod +x %s", path)
	case mode.Perm()&0o002 != 0:
		return nil, cellproto.Errorf(op, cellproto.Denied, "everybody can write to it").WithHint("chmod o-w %s", path)
	}
	if err := fitsMachine(path); err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err).WithHint("Use a celld for %s/%s.", runtime.GOOS, runtime.GOARCH)
	}
	answer, err := askSuccessor(ctx, path, dir)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err).WithHint("%s --handover-check %s says so itself; cellctl restart starts another celld.", path, dir)
	}
	version, formats, err := parseChecked(answer)
	if err != nil {
		return nil, cellproto.Errorf(op, cellproto.BadInput, "%w", err)
	}
	if !slices.Contains(formats, handoverFormat) {
		return nil, cellproto.Errorf(op, cellproto.Unsupported, "celld %s takes handovers of format %v, this one hands over in format %d", version, formats, handoverFormat).
			WithHint("cellctl restart %s, which ends the calls in flight", dir)
	}
	return &successor{path: path, info: info, version: version}, nil
}

// same reports that the file is the one that was examined, with the same content.
func (s *successor) same() bool {
	info, err := os.Stat(s.path)
	return err == nil && os.SameFile(info, s.info) && info.Size() == s.info.Size() && info.ModTime().Equal(s.info.ModTime())
}

// fitsMachine reports a file that is no program for this machine, by its header alone.
func fitsMachine(path string) error {
	self, err := elf.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer self.Close()
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("it is no program of this system: %w", err)
	}
	defer f.Close()
	if f.Machine != self.Machine || f.Class != self.Class || f.Data != self.Data {
		return fmt.Errorf("it is for another machine: %v, %v", f.Machine, f.Class)
	}
	return nil
}

// askSuccessor gives what the other celld says of itself.
func askSuccessor(ctx context.Context, path, dir string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--handover-check", dir)
	cmd.Dir = dir
	var out, errs limited
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("it does not answer: %w", ctx.Err())
	case errors.As(err, &exit):
		line, _, _ := bytes.Cut(bytes.TrimSpace(errs.b), []byte("\n"))
		return nil, fmt.Errorf("it cannot take over: %s (%v)", oneLine(string(line)), err)
	case err != nil:
		return nil, err
	}
	return out.b, nil
}

// oneLine makes what another program said fit for a message.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || cellproto.Unprintable(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxChecked-len(l.b))]...)
	return len(p), nil
}

// parseChecked reads what CheckHandover writes.
func parseChecked(answer []byte) (version string, formats []uint64, err error) {
	fields := map[string]string{}
	for line := range strings.Lines(string(answer[:min(len(answer), maxChecked)])) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			return "", nil, fmt.Errorf("it is no celld that knows of handovers: it says %q", oneLine(line[:min(len(line), 80)]))
		}
		fields[name] = value
	}
	for _, word := range strings.Fields(fields["handover"]) {
		v, err := strconv.ParseUint(word, 10, 32)
		if err != nil {
			return "", nil, fmt.Errorf("it takes handovers of format %q", oneLine(word[:min(len(word), 80)]))
		}
		formats = append(formats, v)
	}
	if version = fields["celld"]; version == "" || len(formats) == 0 {
		return "", nil, errors.New("it is no celld that knows of handovers")
	}
	return oneLine(version), formats, nil
}
