// Command celld is the nucleus of one cell: celld DIR runs it until it is told to stop.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
	"github.com/celldnet/celld/node"
	"github.com/celldnet/celld/node/program"
)

// version is set by the build: -ldflags "-X main.version=1.2.3".
var version = "dev"

func main() {
	showVersion := flag.Bool("version", false, "print the version and exit")
	check := flag.Bool("handover-check", false, "say which handovers this celld can take, and whether it could run the cell in DIR")
	compare := flag.Bool("delta", false, "compare two programs, for cellctl patch make")
	profile := flag.String("profile", os.Getenv(cellproto.EnvProfile), "what sort of machine this is: router")
	flag.Usage = usage
	flag.Parse()
	if *showVersion {
		fmt.Println("celld", buildVersion())
		return
	}
	if *compare && flag.NArg() == 2 {
		os.Exit(makeDelta(flag.Arg(0), flag.Arg(1), os.Stdout))
	}
	if flag.NArg() != 1 || *compare {
		usage()
		os.Exit(2)
	}
	if *check {
		os.Exit(checkHandover(flag.Arg(0)))
	}
	os.Exit(run(flag.Arg(0), *profile))
}

func usage() {
	fmt.Fprint(os.Stderr, "usage: celld [--profile router] DIR\n\nRuns the nucleus of the cell in DIR, a directory with a cell.toml.\n"+
		"On a router it holds little, writes little, and runs no program but in a sandbox.\n"+
		"cellctl start DIR does so in the background.\n")
}

// checkHandover answers the celld that runs, before it lets this one take over.
func checkHandover(dir string) int {
	if err := node.CheckHandover(os.Stdout, dir, buildVersion(), os.Getenv); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n", err)
		return 1
	}
	return 0
}

func buildVersion() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "dev" && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return version
}

// run runs the nucleus and tells whoever started it how it went.
func run(dir, profileName string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	ready := readyPipe()
	inherited, inheritErr := node.Inherit()
	stderr := ready == nil && inherited == nil || inherited.Stderr()
	log, closeLog, err := logger(dir, stderr)
	if err == nil {
		err = inheritErr
	}
	profile, profileErr := node.ParseProfile(profileName)
	if err == nil {
		err = profileErr
	}
	if err == nil {
		defer closeLog()
		err = node.Run(ctx, node.Config{
			Dir: dir, Version: buildVersion(), Getenv: os.Getenv, Ready: func() { tellReady(ready, nil) },
			Overdue: func() { abandon(log) }, Inherited: inherited, Stderr: stderr, Profile: profile,
		}, node.Deps{Log: log})
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, node.ErrRunning) && cellproto.KindOf(err) != cellproto.Unavailable:
		tellReady(ready, nil)
		fmt.Fprintf(os.Stderr, "celld: %s: %v\n", dir, err)
		return 0
	}
	if log != nil {
		log.Error("cannot run", zap.Error(err))
	}
	tellReady(ready, node.RemoteError(err))
	fmt.Fprintf(os.Stderr, "celld: %v\n", err)
	if hint := cellproto.HintOf(err); hint != "" {
		fmt.Fprintf(os.Stderr, "  try: %s\n", hint)
	}
	return 1
}

// abandon ends a nucleus that does not stop, and says where it hangs.
func abandon(log *zap.Logger) {
	stacks := make([]byte, 256<<10)
	log.Error("the nucleus does not stop and is ended", zap.ByteString("goroutines", stacks[:runtime.Stack(stacks, true)]))
	os.Exit(1)
}

// readyPipe is the pipe on which a parent waits; nil without one. Children do not inherit it.
func readyPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(ctl.EnvReadyFD))
	if err != nil || fd < 3 {
		return nil
	}
	os.Unsetenv(ctl.EnvReadyFD)
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

func tellReady(ready *os.File, failure *ctl.RemoteError) {
	if ready == nil {
		return
	}
	_ = ctl.WriteReady(ready, failure) // a parent that is gone does not wait
	ready.Close()
}

// logger writes log/nucleus.log, and standard error too when somebody started celld by hand.
func logger(dir string, alsoStderr bool) (*zap.Logger, func(), error) {
	level := zapcore.InfoLevel
	if text := os.Getenv(cellproto.EnvLog); text != "" {
		if err := level.UnmarshalText([]byte(text)); err != nil {
			return nil, nil, cellproto.Errorf("read "+cellproto.EnvLog, cellproto.BadInput, "%w", err).
				WithHint("Use debug, info, warn or error.")
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "cell.toml")); err != nil {
		return zap.NewNop(), func() {}, nil // node.Run says what is wrong; no log/ is made where no cell is
	}
	file, err := program.OpenLog(filepath.Join(dir, "log", "nucleus.log"))
	if err != nil {
		return nil, nil, err
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.AddSync(file), level)
	if alsoStderr {
		core = zapcore.NewTee(core, zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.Lock(os.Stderr), level))
	}
	return zap.New(core), func() { file.Close() }, nil
}
