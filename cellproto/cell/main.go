package cell

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// Main serves the functions to the nucleus that started this program, and exits: 0 when it was told
// to stop (goaway, SIGTERM) and calls in flight have ended, else 1 with the error on stderr. With the
// one argument --schema it prints schema.json instead. It is Config.Main with the defaults.
func Main(functions ...*Function) { Config{}.Main(functions...) }

// Main is the package's Main with a configuration.
func (cfg Config) Main(functions ...*Function) {
	err := cfg.main(os.Args[1:], functions)
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "error:", err)
	if hint := cellproto.HintOf(err); hint != "" {
		fmt.Fprintln(os.Stderr, "hint:", hint)
	}
	os.Exit(1)
}

const flagSchema = "--schema"

func (cfg Config) main(args []string, functions []*Function) error {
	if len(args) == 1 && args[0] == flagSchema {
		return cfg.printSchema(functions)
	}
	t, err := inherited(os.Getenv(cellproto.EnvFD))
	if err != nil {
		return err
	}
	cfg.handoff = openHandoff(os.Getenv(cellproto.EnvHandoff))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	return cfg.Serve(ctx, t, functions...)
}

func (cfg Config) printSchema(functions []*Function) error {
	s, err := newServer(cfg.withDefaults(), functions)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, s.canonical, "", "  "); err != nil {
		return cellproto.Errorf("print schema", cellproto.Failed, "%w", err)
	}
	b.WriteByte('\n')
	_, err = os.Stdout.Write(b.Bytes())
	return err
}

// inherited opens the socket that the nucleus handed down under the number in CELL_FD. The programs
// that this one starts inherit neither the socket nor the variable.
func inherited(number string) (cellproto.Transport, error) {
	if number == "" {
		return nil, cellproto.Errorf("", cellproto.BadInput, "this program is a cell's: start it with cellctl start").
			WithHint("Run it with %s to see its functions.", flagSchema)
	}
	fd, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return nil, cellproto.Errorf("open "+cellproto.EnvFD, cellproto.BadInput, "%.20q is not the number of a descriptor", number)
	}
	// Not net.FileConn: package net, with cgo, would make every program a dynamic one, which takes a
	// millisecond more to start.
	syscall.CloseOnExec(int(fd))
	if _, err := syscall.Getsockname(int(fd)); err != nil {
		return nil, cellproto.Errorf("open "+cellproto.EnvFD, cellproto.BadInput, "descriptor %d is not a socket: %w", fd, err)
	}
	if err := syscall.SetNonblock(int(fd), true); err != nil { // so that reading it occupies no thread
		return nil, cellproto.Errorf("open "+cellproto.EnvFD, cellproto.Failed, "%w", err)
	}
	if err := os.Unsetenv(cellproto.EnvFD); err != nil {
		return nil, cellproto.Errorf("open "+cellproto.EnvFD, cellproto.Failed, "%w", err)
	}
	return os.NewFile(uintptr(fd), cellproto.EnvFD), nil
}
