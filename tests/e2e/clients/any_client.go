// Sends requests over all addresses of a cell by grpc-go: one JSON line a call, with its status and how long it took.
// Arguments: addresses with commas between, service config, method; on stdin the requests, in base64, one a line.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	_ "google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// raw leaves messages as the bytes that they are.
type raw struct{}

func (raw) Marshal(value interface{}) ([]byte, error)      { return *value.(*[]byte), nil }
func (raw) Unmarshal(data []byte, value interface{}) error { *value.(*[]byte) = data; return nil }
func (raw) Name() string                                   { return "proto" }

type told struct {
	Code string  `json:"code"`
	Text string  `json:"text"`
	Ms   float64 `json:"ms"`
}

func main() {
	processes, _ := manual.GenerateAndRegisterManualResolver()
	state := resolver.State{}
	for _, address := range strings.Split(os.Args[1], ",") {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	processes.InitialState(state)
	// No call is to need a retry.
	connection, err := grpc.Dial(processes.Scheme()+":///cell", grpc.WithInsecure(), grpc.WithDisableRetry(),
		grpc.WithDefaultServiceConfig(os.Args[2]), grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{})))
	if err != nil {
		panic(err)
	}
	defer connection.Close()
	requests := bufio.NewScanner(os.Stdin)
	for requests.Scan() {
		request, err := base64.StdEncoding.DecodeString(requests.Text())
		if err != nil {
			panic(err)
		}
		began := time.Now()
		call, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		call = metadata.AppendToOutgoingContext(call, "cellbook-principal", "treasury/test")
		var answer []byte
		failed := status.Convert(connection.Invoke(call, os.Args[3], &request, &answer))
		cancel()
		line := told{failed.Code().String(), failed.Message(), time.Since(began).Seconds() * 1000}
		json.NewEncoder(os.Stdout).Encode(line)
	}
}
