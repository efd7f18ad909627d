// Command badcelld says that it can take a nucleus over, and cannot: what is wrong with it is in the file
// "how" beside it.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	self, err := os.Executable()
	how := []byte{}
	if err == nil {
		how, err = os.ReadFile(filepath.Join(filepath.Dir(self), "how"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	checks := len(os.Args) > 1 && os.Args[1] == "--handover-check"
	switch strings.TrimSpace(string(how)) {
	case "dies": // when it has taken over
		if !checks {
			os.Exit(3)
		}
	case "unexecutable": // by then
		err = os.Chmod(self, 0o644)
	case "changed": // by then
		err = os.WriteFile(filepath.Join(filepath.Dir(self), "other"), []byte("other"), 0o755)
		if err == nil {
			err = os.Rename(filepath.Join(filepath.Dir(self), "other"), self)
		}
	case "future":
		fmt.Print("handover: 999\ncelld: 9.0.0\n")
		return
	case "refuses":
		fmt.Fprintln(os.Stderr, "there is something about it")
		os.Exit(1)
	case "babbles":
		fmt.Println("hello")
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Print("handover: 1\ncelld: 9.0.0\n")
}
