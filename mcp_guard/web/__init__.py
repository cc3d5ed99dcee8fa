"""The approval inbox: a page on loopback where approvers look and decide. It sends nothing and runs no tool."""
