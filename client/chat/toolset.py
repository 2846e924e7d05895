"""Offers the server's tools to a model: their schemas, and their results as text and pictures.

Adapts `RmiMcpClient` for pydantic-ai, whose own MCP toolset would give the model a run's facts
instead of its output.
"""

from __future__ import annotations

from typing import Any

from fastmcp.exceptions import ToolError
from mcp import MCPError
from pydantic_ai import BinaryContent, RunContext, ToolDefinition, ToolFailed, ToolReturn
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from ..client import RmiMcpClient
from ..results import pictures, texts

# Only check that the arguments are an object; the server validates the rest.
OBJECT = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class ServerTools(AbstractToolset[Any]):
    """The tools of a connected server, for a pydantic-ai agent.

    Args:
        client: must stay connected while the agent runs.
    """

    def __init__(self, client: RmiMcpClient) -> None:
        self._client = client

    @property
    def id(self) -> str:
        """The toolset's id in pydantic-ai."""
        return "rmi-agent"

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        """All tools, with the server's descriptions and schemas."""
        return {
            tool.name: ToolsetTool(
                toolset=self,
                tool_def=ToolDefinition(
                    name=tool.name,
                    description=tool.description,
                    parameters_json_schema=tool.input_schema,
                ),
                max_retries=ctx.max_retries,
                args_validator=OBJECT,
            )
            for tool in await self._client.list_tools()
        }

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> ToolReturn[Any]:
        """Call a tool; returns its text and pictures for the model, and a run's facts as metadata.

        Raises:
            ToolFailed: the server refused; the model reads why.
        """
        try:
            raw = await self._client.call_tool(name, tool_args)
        except (ToolError, MCPError) as error:
            raise ToolFailed(str(error)) from None
        text = texts(raw)
        shown = [BinaryContent(p.data, media_type=p.mime_type) for p in pictures(raw)]
        return ToolReturn([text, *shown] if shown else text, metadata=raw.structured_content)
