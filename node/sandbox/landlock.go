package sandbox

import (
	"fmt"
	"strings"
)

// Access rights of Landlock's ABI, from the kernel's include/uapi/linux/landlock.h.
const (
	fsExecute   = 1 << 0
	fsWriteFile = 1 << 1
	fsReadFile  = 1 << 2
	fsReadDir   = 1 << 3
	fsMakeChar  = 1 << 6
	fsMakeSock  = 1 << 9
	fsMakeFIFO  = 1 << 10
	fsMakeBlock = 1 << 11
	fsIoctlDev  = 1 << 15
	fsAll       = 1<<16 - 1

	rightsDir    = fsExecute | fsReadFile | fsReadDir
	rightsFile   = fsExecute | fsReadFile
	rightsDevice = fsReadFile | fsWriteFile
	rightsWork   = fsAll &^ (fsMakeChar | fsMakeBlock | fsMakeSock | fsMakeFIFO | fsIoctlDev)
)

// ABI versions at which Landlock learned something that the policy asks for.
const (
	abiTruncate = 3
	abiNet      = 4
	abiScopes   = 6
	abiNewest   = 8 // newer ones are used as this one; what they add the filter forbids
)

// ruleset is what Landlock handles, which is forbidden unless a rule allows it.
type ruleset struct {
	FS, Net, Scoped uint64
	Rules           []pathRule
}

// pathRule allows Rights on the file Path, or on all below it.
type pathRule struct {
	Path   string
	Rights uint64
}

// makeRuleset forbids everything that this version of Landlock can forbid, but for reading and
// running what is seen and for writing to devices such as /dev/null. The rule for where a build works
// comes when that has been made.
func makeRuleset(seen []root, abi int) *ruleset {
	r := &ruleset{}
	r.FS, r.Net, r.Scoped = handled(min(abi, abiNewest))
	for _, s := range seen {
		rights := [...]uint64{dirRoot: rightsDir, fileRoot: rightsFile, deviceRoot: rightsDevice, linkRoot: 0, workRoot: 0}[s.Kind]
		if rights != 0 {
			r.Rules = append(r.Rules, pathRule{s.Path, rights})
		}
	}
	return r
}

// handled gives the rights of each kind that a version knows.
func handled(abi int) (fs, net, scoped uint64) {
	fs = [...]uint64{0, 1<<13 - 1, 1<<14 - 1, 1<<15 - 1, 1<<15 - 1, 1<<16 - 1, 1<<16 - 1, 1<<16 - 1, 1<<16 - 1}[abi]
	if abi >= abiNet {
		net = 1<<2 - 1
	}
	if abi >= abiScopes {
		scoped = 1<<2 - 1
	}
	return fs, net, scoped
}

func (r *ruleset) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "landlock: handles files %#x network %#x scopes %#x\n", r.FS, r.Net, r.Scoped)
	for _, rule := range r.Rules {
		fmt.Fprintf(&b, "landlock: %s may", rule.Path)
		for _, right := range []struct {
			bit  uint64
			name string
		}{{fsReadFile, "read"}, {fsReadDir, "list"}, {fsExecute, "run"}, {fsWriteFile, "write"}} {
			if rule.Rights&right.bit != 0 {
				b.WriteString(" " + right.name)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
