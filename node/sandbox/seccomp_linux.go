//go:build linux && (386 || amd64 || arm || arm64)

package sandbox

import (
	"fmt"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/celldnet/celld/cellproto"
)

// selfMark stands in an assembled filter where the process's own number belongs, which is known only
// in that process. No process has this number: the kernel's limit is 1 << 22.
const selfMark = 0x7ffffff1

// assemble gives the kernel's form of a policy, and the indices of the instructions that compare with
// selfMark. Calls of another ABI of the processor (x32, 32 bits on 64) fail.
func assemble(rules []callRule) (prog []unix.SockFilter, self []int, err error) {
	fail := func(err error) ([]unix.SockFilter, []int, error) {
		return nil, nil, cellproto.Errorf("assemble seccomp filter", cellproto.Unsupported, "%w", err)
	}
	info, err := arch.GetInfo("")
	if err != nil {
		return fail(err)
	}
	allow := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	missing := seccomp.SyscallGroup{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS)}
	for _, r := range rules {
		if _, ok := info.SyscallNames[r.Name]; !ok {
			continue
		}
		switch {
		case r.NoCall:
			missing.Names = append(missing.Names, r.Name)
		case len(r.When) == 0:
			allow.Names = append(allow.Names, r.Name)
		default:
			allow.NamesWithCondtions = append(allow.NamesWithCondtions,
				seccomp.NameWithConditions{Name: r.Name, Conditions: conditions(r.When)})
		}
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{allow, missing}}
	list, err := policy.Assemble()
	if err != nil {
		return fail(err)
	}
	raw, err := bpf.Assemble(list)
	if err != nil {
		return fail(err)
	}
	if len(raw) > unix.BPF_MAXINSNS {
		return fail(fmt.Errorf("%d instructions are more than the kernel takes", len(raw)))
	}
	for i, in := range raw {
		prog = append(prog, unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K})
		if in.K == selfMark && in.Op&7 == unix.BPF_JMP {
			self = append(self, i)
		}
	}
	return prog, self, nil
}

func conditions(when []cond) seccomp.ArgumentConditions {
	list := make(seccomp.ArgumentConditions, len(when))
	for i, c := range when {
		list[i] = seccomp.Condition{Argument: c.Arg, Value: c.Value}
		switch c.Is {
		case has:
			list[i].Operation = seccomp.BitsSet
		case lacks:
			list[i].Operation = seccomp.BitsNotSet
		case isSelf:
			list[i].Operation, list[i].Value = seccomp.Equal, selfMark
		default:
			list[i].Operation = seccomp.Equal
		}
	}
	return list
}
