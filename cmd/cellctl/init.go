package main

import (
	"archive/tar"
	"compress/gzip"
	_ "embed" // for the templates
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// What a new cell begins with. {{name}} stands for its name.
var (
	//go:embed template/cell.toml
	templateToml string
	//go:embed template/gitignore
	templateIgnore string
	//go:embed template/main.go.txt
	templateGo string
	//go:embed template/greet.sh
	templateShell string
	//go:embed template/greet.py
	templatePython string
	//go:embed template/schema.json
	templateSchema string
)

// sdkArchive is a go.mod and a vendor directory with the SDK and what it needs, so that a new cell
// builds on a machine that can fetch nothing. scripts/sdk-archive.sh makes it.
//
//go:embed sdk/vendor.tar.gz
var sdkArchive string

// file is one file of a new cell.
type file struct {
	path string
	text string
	mode fs.FileMode
}

func (a *app) initCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Make a new cell, which greets",
		Long: "Make a new cell in the directory NAME, with one function, greet. It builds without a network.\n" +
			"NAME may be a path, the last part of which is the cell's name.",
		Args: args(1, 1),
	}
	lang := cmd.Flags().String("lang", "go", "language of the program: go, sh or python")
	completeFlag(cmd, "lang", "go", "sh", "python")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := filepath.Abs(args[0])
		if err != nil {
			return cellproto.Errorf("init "+args[0], cellproto.Failed, "%w", err)
		}
		name := filepath.Base(dir)
		if !cellproto.ValidCellName(name) {
			return usageError{cellproto.Errorf("init "+args[0], cellproto.BadInput, "%q is not a cell's name", name).
				WithHint("1 to 63 characters out of a-z, 0-9 and -, not - in front")}
		}
		files, ok := filesFor(*lang, name)
		if !ok {
			return usagef(cmd, "there is no --lang %q, but go, sh and python", *lang)
		}
		if err := makeCell(dir, files, *lang == "go"); err != nil {
			return err
		}
		if a.json {
			return a.printJSON(map[string]string{"name": name, "dir": dir, "lang": *lang})
		}
		word := quoteWord(args[0])
		fmt.Fprintf(a.errOut, "next:\n  cellctl build %s\n  cellctl use ./%s greet name=World\n  cellctl publish %s\n",
			word, strings.TrimPrefix(word, "./"), word)
		return a.print(fmt.Appendf(nil, "%s\n", args[0]))
	}
	return cmd
}

// filesFor gives the files of a new cell, but for what the SDK needs.
func filesFor(lang, name string) ([]file, bool) {
	var speaks, build, program string
	switch lang {
	case "go":
		speaks, program = string(celltoml.Frames), "main.go"
	case "sh":
		speaks, program = string(celltoml.JSONL), "greet.sh"
	case "python":
		speaks, program = string(celltoml.JSONL), "greet.py"
	default:
		return nil, false
	}
	if lang != "go" {
		build = fmt.Sprintf("build = \"mkdir -p bin && cp %[1]s bin/.new && chmod 755 bin/.new && mv bin/.new bin/%[2]s\"\n", program, name)
	}
	fill := strings.NewReplacer("{{name}}", name, "{{speaks}}", speaks, "{{build}}\n", build).Replace
	files := []file{
		{celltoml.FileName, fill(templateToml), 0o644},
		{".gitignore", templateIgnore, 0o644},
	}
	switch lang {
	case "go":
		return append(files, file{program, fill(templateGo), 0o644}), true
	case "sh":
		files = append(files, file{program, fill(templateShell), 0o755})
	case "python":
		files = append(files, file{program, fill(templatePython), 0o755})
	}
	return append(files, file{"schema.json", fill(templateSchema), 0o644}), true
}

// makeCell makes the directory: it is there with everything in it, or not at all.
func makeCell(dir string, files []file, sdk bool) error {
	op := "init " + dir
	if err := isFree(dir); err != nil {
		return cellproto.Errorf(op, cellproto.Failed, "%w", err).WithHint("another name, or an empty directory")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".init-")
	if err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	defer os.RemoveAll(tmp)
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(tmp, f.path), []byte(f.text), f.mode); err != nil {
			return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
		}
	}
	if sdk {
		if err := unpackSDK(tmp, filepath.Base(dir)); err != nil {
			return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
		}
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err)
	}
	if err := moveInto(tmp, dir); err != nil {
		return cellproto.Errorf(op, cellproto.KindOf(err), "%w", err).WithHint("another name, or an empty directory")
	}
	return nil
}

// moveInto gives the finished directory tmp the name dir. An empty directory of that name may be
// somebody's working directory, so it stays and is filled.
func moveInto(tmp, dir string) error {
	err := os.Rename(tmp, dir)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if err := os.Rename(filepath.Join(tmp, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			for _, moved := range entries[:i] {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, moved.Name())))
			}
			return err
		}
	}
	return nil
}

func isFree(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%s is not empty", dir)
	}
	return nil
}

// unpackSDK unpacks the archive, which is our own, and puts the cell's name into its go.mod.
func unpackSDK(dir, name string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	gz, err := gzip.NewReader(strings.NewReader(sdkArchive))
	if err != nil {
		return fmt.Errorf("cannot unpack the SDK: %w", err)
	}
	r := tar.NewReader(gz)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot unpack the SDK: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("cannot unpack the SDK: %w", err)
		}
		if h.Name == "go.mod" {
			data = []byte(strings.ReplaceAll(string(data), "{{name}}", name))
		}
		if err := root.MkdirAll(path.Dir(h.Name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(h.Name, data, 0o644); err != nil {
			return err
		}
	}
}
