package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/celldnet/celld/bench/load"
)

// A unary method and a bidirectional stream on BytesValue: the protobuf message that has nothing but bytes.
const (
	method       = "/bench.Echo/Echo"
	streamMethod = "/bench.Echo/Stream"
)

var service = grpc.ServiceDesc{
	ServiceName: "bench.Echo",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(_ any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := dec(in); err != nil {
				return nil, err
			}
			return in, nil
		},
	}},
	Streams: []grpc.StreamDesc{{StreamName: "Stream", Handler: echoStream, ServerStreams: true, ClientStreams: true}},
}

// echoStream sends each message back until the client is gone.
func echoStream(_ any, s grpc.ServerStream) error {
	in := new(wrapperspb.BytesValue)
	for {
		if err := s.RecvMsg(in); err != nil {
			return err
		}
		if err := s.SendMsg(in); err != nil {
			return err
		}
	}
}

func grpcServe(l net.Listener, where string, opts ...grpc.ServerOption) error {
	s := grpc.NewServer(opts...)
	s.RegisterService(&service, struct{}{})
	go func() {
		load.UntilEOF()
		s.Stop()
	}()
	load.Ready(where)
	return s.Serve(l)
}

func grpcCall(target string, opts ...grpc.DialOption) error {
	conn, err := grpc.NewClient(target, opts...)
	if err != nil {
		return err
	}
	defer conn.Close()
	return load.Worker(func() (load.Call, error) {
		payload := load.Payload()
		in := wrapperspb.Bytes(payload)
		return func() error {
			out := new(wrapperspb.BytesValue)
			if err := conn.Invoke(context.Background(), method, in, out); err != nil {
				return err
			}
			return load.Check(payload, out.Value)
		}, nil
	})
}

// grpcServeUnix serves on the Unix socket args[0].
func grpcServeUnix(args []string) error {
	l, err := net.Listen("unix", args[0])
	if err != nil {
		return err
	}
	return grpcServe(l, args[0])
}

func grpcCallUnix(args []string) error {
	return grpcCall("unix:"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// maxStreams is how many callers a round may have: each has a stream of its own.
const maxStreams = 64

// grpcStreamUnix sends its messages over bidirectional streams of one connection. Rounds come one
// after another, so that the streams of one serve the next.
func grpcStreamUnix(args []string) error {
	conn, err := grpc.NewClient("unix:"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the streams
	var streams [maxStreams]grpc.ClientStream
	for i := range streams {
		if streams[i], err = conn.NewStream(ctx, &service.Streams[0], streamMethod); err != nil {
			return err
		}
	}
	next := 0
	return load.Worker(func() (load.Call, error) {
		s := streams[next%maxStreams]
		next++
		payload := load.Payload()
		in, out := wrapperspb.Bytes(payload), new(wrapperspb.BytesValue)
		return func() error {
			if err := s.SendMsg(in); err != nil {
				return err
			}
			if err := s.RecvMsg(out); err != nil {
				return err
			}
			return load.Check(payload, out.Value)
		}, nil
	})
}

// grpcServeTLS serves on a TCP port of the loopback, and writes its certificate into the directory
// args[0] for the client to trust.
func grpcServeTLS(args []string) error {
	cert, err := selfSigned(filepath.Join(args[0], certFile))
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return grpcServe(l, l.Addr().String(), grpc.Creds(credentials.NewServerTLSFromCert(&cert)))
}

// grpcCallTLS calls the address args[0] with the certificate in the directory args[1].
func grpcCallTLS(args []string) error {
	creds, err := credentials.NewClientTLSFromFile(filepath.Join(args[1], certFile), "localhost")
	if err != nil {
		return err
	}
	return grpcCall("passthrough:///"+args[0], grpc.WithTransportCredentials(creds))
}

const certFile = "cert.pem"

func selfSigned(path string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
