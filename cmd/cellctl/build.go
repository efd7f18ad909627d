package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
	"github.com/celldnet/celld/internal/ctl"
)

func (a *app) buildCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "build [DIR]",
		Short: "Build the program of a cell",
		Long: "Build the program of a cell: by the key \"build\" of its cell.toml, else by its go.mod,\n" +
			"Cargo.toml, Makefile or flake.nix. What the build says goes to stderr. If the cell runs, a program\n" +
			"that would break those who call it, here or at a mirror, is not put into bin/, unless the major\n" +
			"version has risen.",
		Args: args(0, 1),
	}
	guard := guardFlags(cmd, "the new program")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := cellDir(first(args))
		if err != nil {
			return err
		}
		c, err := celltoml.Load(dir)
		if err != nil {
			return err
		}
		r, err := recipeFor(c)
		if err != nil {
			return err
		}
		if err := a.cook(cmd, c, r, *guard); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"name": c.Cell.Name, "binary": c.Path(c.Cell.Binary)})
		}
		return a.print(fmt.Appendf(nil, "%s\n", c.Cell.Binary))
	}
	return cmd
}

// recipe is how a program is built.
type recipe struct {
	argv    []string // the command, in the cell's directory
	product string   // what it leaves behind, relative to the directory; "" if that is the binary itself
}

// recipeFor chooses by what is in the cell's directory.
func recipeFor(c *celltoml.Config) (recipe, error) {
	op := "build " + c.Cell.Name
	if c.Headless() {
		return recipe{}, cellproto.Errorf(op, cellproto.BadInput, "the cell has no program").
			WithHint("binary = \"bin/%s\" under [cell] in %s", c.Cell.Name, filepath.Join(c.Dir, celltoml.FileName))
	}
	if c.Cell.Build != "" {
		return recipe{argv: []string{"sh", "-c", c.Cell.Build}}, nil
	}
	name := filepath.Base(c.Cell.Binary)
	// The new program is moved into its place: a nucleus that watches bin/ never sees half of it.
	fresh := filepath.Join(filepath.Dir(c.Cell.Binary), "."+name+".new")
	for _, known := range []struct {
		file string
		recipe
	}{
		{"go.mod", recipe{[]string{"go", "build", "-o", fresh, "."}, fresh}},
		{"Cargo.toml", recipe{[]string{"cargo", "build", "--release"}, filepath.Join("target", "release", name)}},
		{"Makefile", recipe{[]string{"make"}, ""}},
		{"flake.nix", recipe{[]string{"nix", "build"}, filepath.Join("result", "bin", name)}},
	} {
		if _, err := os.Stat(filepath.Join(c.Dir, known.file)); err == nil {
			return known.recipe, nil
		}
	}
	return recipe{}, cellproto.Errorf(op, cellproto.Failed, "it has neither a build key nor go.mod, Cargo.toml, Makefile or flake.nix").
		WithHint("build = \"COMMAND\" under [cell] in %s", filepath.Join(c.Dir, celltoml.FileName))
}

// cook runs a recipe and puts what it makes into the binary's place.
func (a *app) cook(cmd *cobra.Command, c *celltoml.Config, r recipe, g ctl.Guard) error {
	op := "build " + c.Cell.Name
	if err := keepDocs(c.Dir); err != nil {
		return err
	}
	run := exec.CommandContext(cmd.Context(), r.argv[0], r.argv[1:]...)
	run.Dir, run.Stdout, run.Stderr = c.Dir, a.errOut, a.errOut
	run.Env = os.Environ()
	if a.getenv("CGO_ENABLED") == "" {
		run.Env = append(run.Env, "CGO_ENABLED=0") // so that the program runs on other machines too
	}
	if err := os.MkdirAll(filepath.Dir(c.Path(c.Cell.Binary)), 0o755); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if err := run.Run(); err != nil {
		e := cellproto.Errorf(op, cellproto.Failed, "%s: %w", strings.Join(r.argv, " "), err)
		if errors.Is(err, exec.ErrNotFound) {
			return e.WithHint("install %s", r.argv[0])
		}
		return e
	}
	if made := r.product; !g.Force {
		if made == "" {
			made = c.Cell.Binary
		}
		if err := a.guard(cmd, c, c.Path(made), g); err != nil {
			if r.product != "" && filepath.Dir(r.product) == filepath.Dir(c.Cell.Binary) {
				_ = os.Remove(c.Path(r.product)) // a hidden file beside the program
			}
			return err
		}
	}
	if r.product != "" {
		if err := install(c.Path(r.product), c.Path(c.Cell.Binary)); err != nil {
			return cellproto.Errorf(op, cellproto.Failed, "%w", err).
				WithHint("the build's program has to be called %s", filepath.Base(c.Cell.Binary))
		}
	}
	info, err := os.Stat(c.Path(c.Cell.Binary))
	switch {
	case err != nil:
		return cellproto.Errorf(op, cellproto.Failed, "the build made no %s", c.Cell.Binary).
			WithHint("binary under [cell] in cell.toml names what the build makes")
	case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
		return cellproto.Errorf(op, cellproto.Failed, "%s is not an executable file", c.Cell.Binary).
			WithHint("chmod +x %s", quoteWord(c.Path(c.Cell.Binary)))
	}
	return nil
}

// install puts the program made at from into its place in one step. A hidden file beside its place
// is moved, all else is copied.
func install(from, to string) error {
	if filepath.Dir(from) == filepath.Dir(to) {
		return os.Rename(from, to)
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := renameio.NewPendingFile(to, renameio.WithStaticPermissions(0o755))
	if err != nil {
		return err
	}
	defer dst.Cleanup()
	if _, err := io.Copy(dst, src); err != nil {
		return err
	}
	return dst.CloseAtomicallyReplace()
}
