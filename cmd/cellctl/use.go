package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) useCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "use TARGET FUNCTION [ARGS...]",
		Short: "Call a function of a cell",
		Long: "Call a function of a cell, wherever it is, and print its reply.\n\n" +
			"TARGET is a CID, an IPNS name, a domain with DNSLink, a name under [deps], or a directory.\n" +
			"ARGS are values in the order of the schema, or name=value.\n\n" +
			"With --quorum 2of3 three providers in different networks are asked, and the reply that two of them\n" +
			"give counts. Who gives another one is named, and not asked for a while.",
		Example: "  cellctl use bafyrei... add 3 4\n" +
			"  cellctl use ./calculator add a=3 b=-4\n" +
			"  cellctl use digest sha256 --input backup.tar\n" +
			"  cellctl use --quorum 2of3 bafyrei... add 3 4",
		Args:              args(2, -1),
		ValidArgsFunction: a.completeUse,
	}
	var c call
	var output string
	cmd.Flags().StringVarP(&c.input, "input", "i", "", "`FILE` with the function's body or JSON arguments; - is stdin")
	cmd.Flags().StringVarP(&output, "output", "o", "", "write the reply to `FILE`")
	cmd.Flags().StringVar(&c.quorum, "quorum", "", "ask several providers of a pure function: `2of3` asks three, of whom two must agree")
	cmd.Flags().StringVar(&c.key, "key", "", "idempotency `KEY`: calls of an idempotent function with the same one run once")
	timeout := timeoutFlag(cmd, cellproto.DefaultTimeout)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := parseTarget(args[0])
		if err != nil {
			return err
		}
		c.op, c.fn, c.argv = "use "+args[0]+" "+args[1], args[1], args[2:]
		ctx, cancel, err := deadline(cmd, *timeout)
		if err != nil {
			return err
		}
		defer cancel()
		out, err := openOutput(output) // before the call, which may have effects
		if err != nil {
			return err
		}
		defer out.drop()
		p := a.progress()
		defer p.done()
		r, err := a.use(ctx, t, &c, p)
		p.done()
		if err != nil {
			return err
		}
		defer r.close()
		return a.showReply(r, out)
	}
	return cmd
}

// call is what a person asks of a function.
type call struct {
	op    string // for errors: the command as it was given
	fn    string
	argv  []string
	input string // file name, "-" or ""
	key   string

	quorum string // "2of3", or ""
}

// reply is what comes back. The owner calls close.
type reply struct {
	ctl.UseMeta
	body  io.Reader
	close func()
}

// use calls a directory's cell over its own socket, and all else through the caller's nucleus.
func (a *app) use(ctx context.Context, t target, c *call, p *progress) (*reply, error) {
	if len(c.key) > maxKey {
		return nil, usageError{cellproto.Errorf(c.op, cellproto.BadInput, "a key of %d bytes, at most %d", len(c.key), maxKey)}
	}
	if c.quorum != "" {
		if _, err := cellproto.ParseQuorum(c.quorum); err != nil {
			return nil, usageError{wrapOp(c.op, err)}
		}
	}
	in, err := a.openInput(c)
	if err != nil {
		return nil, err
	}
	if t.dir != "" && c.quorum == "" {
		return a.useLocal(ctx, t.dir, c, in, p)
	}
	return a.useRemote(ctx, t, c, in, p)
}

const maxKey = 64 // bytes; the limit of the frame header

// openInput opens --input; without one it gives nil.
func (a *app) openInput(c *call) (io.Reader, error) {
	switch c.input {
	case "":
		return nil, nil
	case "-":
		return a.in, nil
	}
	f, err := os.Open(c.input) // closed by the end of the process
	if err != nil {
		return nil, cellproto.Errorf(c.op, cellproto.Failed, "cannot read the input: %w", err)
	}
	return f, nil
}

func (a *app) useRemote(ctx context.Context, t target, c *call, in io.Reader, p *progress) (*reply, error) {
	caller, err := a.callerDir()
	if err != nil {
		return nil, err
	}
	client, err := a.client(ctx, caller, p)
	if err != nil {
		return nil, err
	}
	until, _ := ctx.Deadline()
	req := ctl.UseRequest{
		Target: t.text, Func: c.fn, CallerDir: caller, Key: c.key, Argv: c.argv, Quorum: c.quorum,
		Timeout: ctl.Budget(time.Until(until)),
	}
	if in != nil {
		req.Body = ctl.BodyAuto
		if len(c.argv) == 0 {
			req.Argv = nil
		}
		if f, ok := in.(*os.File); ok && c.input != "-" {
			req.File = ctl.FileOf(f)
		}
	}
	if size := argvSize(c.argv); size > cellproto.MaxArgs {
		return nil, usageError{cellproto.Errorf(c.op, cellproto.TooLarge, "%d bytes of arguments, the limit is %d", size, cellproto.MaxArgs)}
	}
	r, err := client.Use(ctx, req, in)
	if err != nil {
		return nil, badTarget(fromControl(c.op, caller, err))
	}
	return &reply{
		UseMeta: r.UseMeta,
		body:    controlErrors{r: r, op: c.op, dir: caller},
		close:   func() { r.Close() },
	}, nil
}

func argvSize(argv []string) int {
	n := 0
	for _, s := range argv {
		n += len(s)
	}
	return n
}

// controlErrors gives the errors of a reply's body their kinds.
type controlErrors struct {
	r       io.Reader
	op, dir string
}

func (c controlErrors) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fromControl(c.op, c.dir, err)
	}
	return n, err
}

// wrapOp puts what was asked for in front of an error and keeps its kind and hint.
func wrapOp(op string, err error) error {
	return &cellproto.Error{
		Op: op, Kind: cellproto.KindOf(err), Err: err,
		Hint: cellproto.HintOf(err), RetryAfter: cellproto.RetryAfterOf(err),
	}
}
