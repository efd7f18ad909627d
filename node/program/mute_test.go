package program

import (
	"os"
	"strconv"
	"syscall"

	"github.com/celldnet/celld/cellproto"
)

// serveMute is a program that takes connections, closes them, and never says so.
func serveMute() {
	fd, err := strconv.Atoi(os.Getenv(cellproto.EnvHandoff))
	if err != nil {
		panic(err)
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		panic(err)
	}
	go func() {
		buf, oob := make([]byte, 512), make([]byte, syscall.CmsgSpace(4))
		for {
			_, on, _, _, err := syscall.Recvmsg(fd, buf, oob, 0)
			if err != nil {
				return
			}
			msgs, _ := syscall.ParseSocketControlMessage(oob[:on])
			for i := range msgs {
				fds, _ := syscall.ParseUnixRights(&msgs[i])
				for _, got := range fds {
					syscall.Close(got)
				}
			}
		}
	}()
	serveHello(cellproto.Hello{Capabilities: []string{cellproto.CapHandoff}}, answerFrame)
}
