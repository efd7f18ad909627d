package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/celldnet/celld/cellproto"
	"github.com/celldnet/celld/cellproto/celltoml"
)

// cellDir gives the directory that a command works on: the one named, else the nearest cell
// upward from here.
func cellDir(named string) (string, error) {
	if named == "" {
		dir, ok := celltoml.FindUp(".")
		if !ok {
			return "", cellproto.Errorf("find the cell", cellproto.NotFound, "no cell.toml here or in a directory above").
				WithHint("cellctl init NAME, or name the cell's directory")
		}
		return dir, nil
	}
	dir, err := filepath.Abs(named)
	if err != nil {
		return "", cellproto.Errorf("find the cell", cellproto.Failed, "%w", err)
	}
	if err := hasToml(dir); err != nil {
		return "", err
	}
	return dir, nil
}

func hasToml(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, celltoml.FileName))
	if err == nil {
		return nil
	}
	hint := "cellctl init NAME makes a cell"
	_, derr := os.Stat(dir)
	switch {
	case derr == nil && errors.Is(err, fs.ErrNotExist):
		return cellproto.Errorf("find the cell", cellproto.NotFound, "%s has no cell.toml", dir).WithHint("%s", hint)
	case errors.Is(derr, fs.ErrNotExist):
		return cellproto.Errorf("find the cell", cellproto.NotFound, "there is no directory %s", dir).WithHint("%s", hint)
	}
	return cellproto.Errorf("find the cell", cellproto.KindOf(err), "%w", err).WithHint("%s", hint)
}

// callerDir gives the cell on whose behalf a command asks: the nearest one upward, else the home
// cell, which is made if there is none.
func (a *app) callerDir() (string, error) {
	if dir, ok := celltoml.FindUp("."); ok {
		return dir, nil
	}
	return a.homeDir()
}

// homeToml is the user's own cell: it has no program, and its nucleus retires when idle.
const homeToml = `# Your home cell: it calls other cells on your behalf.
[cell]
name = "home"

[life_cycle]
nucleus_timeout = 300
`

// homeDir gives the directory of the home cell and makes it if it is not there.
func (a *app) homeDir() (string, error) {
	dir, err := a.homePath()
	if err != nil {
		return "", err
	}
	toml := filepath.Join(dir, celltoml.FileName)
	if _, err := os.Lstat(toml); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", cellproto.Errorf("make the home cell", cellproto.KindOf(err), "%w", err).
			WithHint("CELL_HOME=DIR, a directory that you can write to")
	}
	if err := renameio.WriteFile(toml, []byte(homeToml), 0o600); err != nil {
		return "", cellproto.Errorf("make the home cell", cellproto.KindOf(err), "%w", err).
			WithHint("CELL_HOME=DIR, a directory that you can write to")
	}
	return dir, nil
}

// homePath follows the XDG base directory specification 0.8: a relative $XDG_DATA_HOME is ignored.
func (a *app) homePath() (string, error) {
	if dir := a.getenv(cellproto.EnvHome); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", cellproto.Errorf("find the home cell", cellproto.Failed, "%w", err)
		}
		return abs, nil
	}
	data := a.getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) {
		home := a.getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", cellproto.Errorf("find the home cell", cellproto.NotFound, "neither CELL_HOME, XDG_DATA_HOME nor HOME names a directory").
				WithHint("CELL_HOME=DIR")
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "cell", "home"), nil
}

// target is what a command is about: a cell directory on this machine, or a text that a nucleus
// resolves.
type target struct {
	text string // as a nucleus takes it: CID, IPNS name, domain, name under [deps], or absolute directory
	dir  string // absolute, if it is a directory
}

// parseTarget tells directories from all else. A word without a slash that is both a directory here
// and a name under [deps] of the calling cell means the latter.
func parseTarget(word string) (target, error) {
	if word == "" {
		return target{}, usageError{cellproto.Errorf("find the cell", cellproto.BadInput, "the target is empty")}
	}
	for _, prefix := range []string{"/ipfs/", "/ipns/", "ipfs://", "ipns://"} {
		if rest, ok := strings.CutPrefix(word, prefix); ok && !strings.Contains(rest, "/") {
			return target{text: rest}, nil
		}
	}
	isPath := strings.Contains(word, "/") || word == "." || word == ".."
	if !isPath {
		if hasToml(word) != nil || isDep(word) {
			return target{text: word}, nil
		}
	}
	dir, err := cellDir(word)
	if err != nil {
		return target{}, err
	}
	return target{text: dir, dir: dir}, nil
}

func isDep(word string) bool {
	caller, ok := celltoml.FindUp(".")
	if !ok {
		return false
	}
	c, err := celltoml.Load(caller)
	if err != nil {
		return false // whoever needs the caller's nucleus is told
	}
	return c.Deps[word] != "" || c.RemoteCells[word] != ""
}

// targetOrHere is parseTarget, with the cell at hand where no word is given.
func targetOrHere(words []string) (target, error) {
	if len(words) > 0 {
		return parseTarget(words[0])
	}
	dir, err := cellDir("")
	return target{text: dir, dir: dir}, err
}
